// Probabilities of one window: out of the server's grey PNGs, into coloured images.

const root = getComputedStyle(document.documentElement);
const [TARGET, OTHER] = ["--target", "--non-target"].map((name) => root.getPropertyValue(name).match(/\d+/g).map(Number));
// viridis at 0, 1/4, 1/2, 3/4, 1
const HEAT = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

// The layers of every box of an answer: {window, target, other}, each 0..255 a pixel, row by row.
export async function read(answer) {
  const decode = (pngs) => Promise.all((pngs ?? []).map(grey));
  const [targets, others] = await Promise.all([decode(answer.targets), decode(answer.non_targets)]);
  return answer.windows.map((window, i) => ({
    window,
    width: window[2] - window[0],
    height: window[3] - window[1],
    target: targets[i],
    other: others[i] ?? null,
    drawn: new Map(),
  }));
}

async function grey(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), {
    colorSpaceConversion: "none",
  });
  const context = blank(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// A canvas as large as the window; kept, because most redraws change nothing of it.
function painted(layer, key, paint) {
  const kept = layer.drawn.get(key.split(" ")[0]);
  if (kept?.key === key) return kept.canvas;
  const canvas = blank(layer.width, layer.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(layer.width, layer.height);
  paint(image.data);
  context.putImageData(image, 0, 0);
  layer.drawn.set(key.split(" ")[0], { key, canvas });
  return canvas;
}

// Pixels of the target's mask; counted anew only where the threshold has changed.
export function area(layer, threshold) {
  if (layer.counted?.threshold !== threshold) {
    const count = layer.target.reduce((sum, value) => sum + (value >= threshold * 255), 0);
    layer.counted = { threshold, count };
  }
  return layer.counted.count;
}

// The overlay of the target (kind "target") or the non-target ("other"); `pen` is the outline's width.
export function overlay(layer, kind, color, { style, opacity, threshold, outlines, pen }) {
  const values = layer[kind];
  const rgb = color ?? (kind === "target" ? TARGET : OTHER);
  const outlined = outlines && kind === "target";
  return painted(layer, [kind, rgb, style, opacity, threshold, outlined && pen].join(" "), (pixels) => {
    const level = threshold * 255;
    for (let i = 0; i < values.length; i++) {
      const inside = values[i] >= level;
      const alpha = style === "mask" ? (inside ? 255 : 0) : values[i];
      pixels.set(rgb, 4 * i);
      pixels[4 * i + 3] = opacity * alpha;
      if (outlined && inside && onEdge(layer, values, level, i, pen)) pixels[4 * i + 3] = 255;
    }
  });
}

function onEdge({ width, height }, values, level, i, pen) {
  const x = i % width;
  const y = Math.floor(i / width);
  for (const [dx, dy] of [[pen, 0], [-pen, 0], [0, pen], [0, -pen]]) {
    const [u, v] = [x + dx, y + dy];
    if (u < 0 || v < 0 || u >= width || v >= height || values[v * width + u] < level) return true;
  }
  return false;
}

// The probability as a heat map.
export function heat(layer, kind) {
  return painted(layer, `heat-${kind} `, (pixels) => {
    layer[kind].forEach((value, i) => pixels.set([...warmth(value / 255), 255], 4 * i));
  });
}

function warmth(share) {
  const position = share * (HEAT.length - 1);
  const low = Math.min(Math.floor(position), HEAT.length - 2);
  return HEAT[low].map((value, c) => value + (position - low) * (HEAT[low + 1][c] - value));
}

// Probability of a kind at a pixel of the bitmap; null outside the window.
export function at(layer, kind, x, y) {
  const [u, v] = [Math.floor(x) - layer.window[0], Math.floor(y) - layer.window[1]];
  if (!layer[kind] || u < 0 || v < 0 || u >= layer.width || v >= layer.height) return null;
  return layer[kind][v * layer.width + u] / 255;
}
