// Drawing picture and map, at any size: on the screen, and for export.

const PANEL = 0.495; // of the stage, for each of two panels side by side; the rest is the gap between them

/** Where the panels of a mode lie, in shares of the whole; and the whole's width over its height. */
export function layout(mode, ratio, stacked, divider) {
  const whole = { x: 0, y: 0, width: 1, height: 1, from: 0, to: 1 };
  if (mode === "swipe") {
    return { ratio, panels: [{ ...whole, kind: "overlay", from: divider }, { ...whole, kind: "original", to: divider }] };
  }
  if (mode !== "side") return { ratio, panels: [{ ...whole, kind: mode }] };
  const size = stacked ? { height: PANEL } : { width: PANEL };
  const place = stacked ? { y: 1 - PANEL } : { x: 1 - PANEL };
  const panels = [{ ...whole, ...size, kind: "original" }, { ...whole, ...size, ...place, kind: "overlay" }];
  return { ratio: stacked ? ratio * PANEL : ratio / PANEL, panels };
}

/** Draw all panels. `unit` is how many pixels one line is wide. */
export function draw(context, scene, unit) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  for (const { x, y, width: across, height: down, from, to, kind } of scene.panels) {
    const box = { x: x * width, y: y * height, width: across * width, height: down * height };
    context.save();
    context.beginPath();
    context.rect(box.x + from * box.width, box.y, (to - from) * box.width, box.height);
    context.clip();
    drawPanel(context, box, kind, scene, unit);
    context.restore();
  }
  const divided = scene.panels.find(({ from }) => from > 0);
  if (divided) drawLines(context, [[divided.from * width, 0, divided.from * width, height]], unit);
}

function drawPanel(context, box, kind, { picture, map, outline, opacity, cross }, unit) {
  if (kind !== "heatmap" && picture) context.drawImage(picture, box.x, box.y, box.width, box.height);
  if (kind !== "original" && map) {
    const mask = { x: box.width / map.image.width / map.steps.x, y: box.height / map.image.height / map.steps.y };
    const { left, top, width, height } = map.seen;
    const seen = { x: box.x + left * mask.x, y: box.y + top * mask.y, width: width * mask.x, height: height * mask.y };
    context.globalAlpha = kind === "heatmap" ? 1 : opacity;
    if (!map.explanation.empty) context.drawImage(map.heat, seen.x, seen.y, seen.width, seen.height);
    context.globalAlpha = 1;
    if (map.hasUnseen) drawUnseen(context, box, seen, unit);
    if (outline) drawOutline(context, outline, new DOMMatrix([mask.x, 0, 0, mask.y, seen.x, seen.y]), unit);
  }
  if (!cross) return;
  const [x, y] = [box.x + cross.across * box.width, box.y + cross.down * box.height];
  const [near, far] = [3 * unit, 11 * unit]; // a gap in the middle: what is read stays visible
  const arms = [[x - far, y, x - near, y], [x + near, y, x + far, y], [x, y - far, x, y - near], [x, y + near, x, y + far]];
  drawLines(context, arms, unit);
}

/** Hatch everything of the box but the part that the model saw. */
function drawUnseen(context, box, seen, unit) {
  context.save();
  context.beginPath();
  context.rect(box.x, box.y, box.width, box.height);
  context.rect(seen.x, seen.y, seen.width, seen.height);
  context.clip("evenodd");
  context.fillStyle = "rgb(0 0 0 / 62%)";
  context.fillRect(box.x, box.y, box.width, box.height);
  context.beginPath();
  for (let x = box.x - box.height; x < box.x + box.width; x += 9 * unit) {
    context.moveTo(x, box.y + box.height);
    context.lineTo(x + box.height, box.y);
  }
  context.strokeStyle = "rgb(255 255 255 / 32%)";
  context.lineWidth = unit;
  context.stroke();
  context.restore();
}

function drawOutline(context, outline, matrix, unit) {
  const path = new Path2D();
  path.addPath(outline, matrix);
  stroke(context, path, unit);
}

function drawLines(context, lines, unit) {
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of lines) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  stroke(context, path, unit);
}

/** White on black: to be seen on any picture and any colormap. */
function stroke(context, path, unit) {
  context.lineCap = "round";
  for (const [style, width] of [["rgb(0 0 0 / 75%)", 4], ["white", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke(path);
  }
}
