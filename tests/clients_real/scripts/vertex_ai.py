"""Google's library for Vertex AI against a server: python vertex_ai.py URL PICTURE."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from google.api_core.exceptions import GoogleAPICallError, NotFound
from google.cloud import aiplatform_v1
from google.cloud.aiplatform_v1.services.prediction_service.transports.rest import PredictionServiceRestTransport
from google.oauth2.credentials import Credentials

url, picture = sys.argv[1:]
transport = PredictionServiceRestTransport(
    host=url.removeprefix("http://"), url_scheme="http", credentials=Credentials(token="none")
)
client = aiplatform_v1.PredictionServiceClient(transport=transport)
place = "projects/p/locations/us-central1/endpoints"
b64 = base64.b64encode(Path(picture).read_bytes()).decode()

answer = client.predict(
    endpoint=f"{place}/shapes", instances=[{"content": b64}, {"content": "QUJD"}], parameters={"maxPredictions": 2}
)
assert answer.deployed_model_id == "shapes"
good, bad = answer.predictions
assert next(iter(good["displayNames"])) == "star"
assert len(good["ids"]) == 2
assert "not a picture" in bad["error"]

explained = client.explain(endpoint=f"{place}/shapes", instances=[{"content": b64, "target": 3}])
(attribution,) = explained.explanations[0].attributions
assert (attribution.output_display_name, list(attribution.output_index)) == ("star", [3])
assert base64.b64decode(attribution.feature_attributions["image"]["b64_jpeg"]).startswith(b"\xff\xd8")

try:
    client.predict(endpoint=f"{place}/shape", instances=[{"content": b64}])
except NotFound as error:
    assert "Did you mean 'shapes'?" in error.message
    assert error.reason == "UNKNOWN_MODEL"
else:
    raise AssertionError("an endpoint that is not there answers")

try:
    client.explain(endpoint=f"{place}/shapes", instances=[{"content": b64}], parameters={"layr": "layer3"})
except GoogleAPICallError as error:
    assert error.code == 422
    assert "'layer'" in error.message
else:
    raise AssertionError("an option that is none is taken")
