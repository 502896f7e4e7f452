// Outlines of what is above a level: marching squares on a grid coarse enough to be searched in every frame.

const SIDE = 160; // samples along the longer side: as many as the server takes

const grids = new WeakMap(); // by map: made when it is first wanted

/** Where `map` crosses `level`, as lines in mask pixels of the seen part. */
export function outline(map, level) {
  if (!grids.has(map)) grids.set(map, grid(map));
  const { values, xs, ys } = grids.get(map);
  const path = new Path2D();
  for (let row = 0; row + 1 < ys.length; row++) {
    for (let column = 0; column + 1 < xs.length; column++) {
      const index = row * xs.length + column;
      const a = values[index], b = values[index + 1];
      const d = values[index + xs.length], c = values[index + xs.length + 1];
      const inside = (a >= level) + (b >= level) + (c >= level) + (d >= level);
      if (inside === 0 || inside === 4) continue; // nearly all of them: everything below is rare
      const points = crossings([a, b, c, d], level, [xs[column], xs[column + 1]], [ys[row], ys[row + 1]]);
      points.forEach((point, at) => (at % 2 ? path.lineTo(...point) : path.moveTo(...point)));
    }
  }
  return path;
}

/** Magnitudes of a map, with a border of nothing around it that closes outlines. */
function grid({ seen: { width, height }, levels, shares }) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / SIDE));
  const [xs, ys] = [width, height].map((size) => samples(size, step));
  const values = new Float32Array(xs.length * ys.length);
  for (let row = 1; row < ys.length - 1; row++) {
    for (let column = 1; column < xs.length - 1; column++) {
      const level = levels[Math.floor(ys[row]) * width + Math.floor(xs[column])];
      values[row * xs.length + column] = Math.abs(shares[level]);
    }
  }
  return { values, xs, ys };
}

/** Every `step`-th pixel's centre, and both edges. */
function samples(size, step) {
  const centres = Array.from({ length: Math.ceil(size / step) }, (_, index) => Math.min((index + 0.5) * step, size - 0.5));
  return Float32Array.of(0, ...centres, size);
}

/** Where the edges of a cell with the corners a b c d, clockwise from the top left, are crossed: two points, or four. */
function crossings([a, b, c, d], level, [left, right], [top, bottom]) {
  const between = (from, to, low, high) => low + ((high - low) * (level - from)) / (to - from);
  const points = []; // around the cell: of a saddle, the first two make one line, the other two another
  if (a >= level !== b >= level) points.push([between(a, b, left, right), top]);
  if (b >= level !== c >= level) points.push([right, between(b, c, top, bottom)]);
  if (d >= level !== c >= level) points.push([between(d, c, left, right), bottom]);
  if (a >= level !== d >= level) points.push([left, between(a, d, top, bottom)]);
  return points;
}
