"""Errors that operations of any protocol can meet, as the OpenAPI document shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import (
    DeadlineExceeded,
    HeadersTooLarge,
    ImageTooLarge,
    InternalError,
    InvalidImage,
    NotReady,
    RequestTimeout,
    UnknownLayer,
    UnknownModel,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from service.errors import ServiceError

__all__ = ["BODY_ERRORS", "READING_ERRORS", "ErrorExample"]


@dataclass(frozen=True)
class ErrorExample:
    """An error that an operation can meet, as the OpenAPI document shows it.

    Attributes:
        description: when its status is answered.
        error: one of them.
    """

    description: str
    error: ServiceError


# What any operation can meet.
READING_ERRORS = (
    ErrorExample("There is no such model.", UnknownModel.among("resnet5", ["resnet50"])),
    ErrorExample(
        "An option is unknown or out of range.",
        UnknownLayer.among("layer44", ["layer4"], model="resnet50"),
    ),
    ErrorExample(
        "The headers are over the limit.",
        HeadersTooLarge("The request's line and headers have more than 65536 bytes. Send fewer."),
    ),
    ErrorExample(
        "Our fault; the log has the reason under the request id.",
        InternalError("Something went wrong here; the log has the reason."),
    ),
    ErrorExample(
        "Loading, draining, or no worker; see Retry-After.",
        NotReady("Model 'resnet50' is being loaded. Try again in a few seconds.", retry_after_s=2),
    ),
)
# What operations with a body can meet.
BODY_ERRORS = (
    *READING_ERRORS,
    ErrorExample(
        "Not a picture, a truncated picture, bad base64, or no picture.",
        InvalidImage("The bytes are not a picture in a known format. Send a JPEG, PNG, WebP, GIF, BMP or TIFF file."),
    ),
    ErrorExample(
        "The request did not arrive in time.",
        RequestTimeout("The head of the request took longer than 10 s. Send it faster."),
    ),
    ErrorExample(
        "The body, a picture's pixels, frames or parts, or the number of pictures is over the limit.",
        ImageTooLarge(
            "The picture has 100,000,000 pixels (10000 × 10000); the limit is 64,000,000. Send a smaller one."
        ),
    ),
    ErrorExample(
        "The content type is none of the three, or the body is compressed.",
        UnsupportedMediaType("Send pictures as multipart/form-data, as application/json, or as the body itself."),
    ),
    ErrorExample("The deadline passed.", DeadlineExceeded("The answer was not ready within 30 s.")),
)
