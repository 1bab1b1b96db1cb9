// One model's view of the image: draws it, and turns the pointer into boxes, picks and points.

import { area, at, heat, overlay } from "./layers.js";

const CLICK = 4; // a drag shorter than this many screen pixels is a click
const REACH = { mouse: 8, pen: 12, touch: 22 }; // of a box's sides for the pointer, screen pixels

export class Pane {
  // `on` has the functions box([x1, y1, x2, y2]), resize(person, box), pick(x, y), point(x, y, label),
  // rubber(box or null)
  constructor(index, { name, summary }, on) {
    const figure = document.getElementById("pane").content.cloneNode(true).firstElementChild;
    this.find = (selector) => figure.querySelector(selector);
    this.index = index;
    this.on = on;
    this.figure = figure;
    this.canvas = this.find(".stage canvas");
    Object.assign(this.find(".name"), { textContent: name, title: name });
    this.find(".summary").textContent = summary;
    this.#listen();
  }

  // Draw `state` (see app.js); called at most once a frame.
  draw(state) {
    const { image, selected } = state;
    this.find(".empty").hidden = Boolean(image);
    this.canvas.hidden = !image;
    this.state = state;
    if (!image) return;
    this.#fit(image);
    const context = this.canvas.getContext("2d");
    context.drawImage(image.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    for (const person of selected ? [selected] : this.#backToFront(state)) this.#drawLayer(context, person);
    this.#drawTiles(selected?.layers[this.index]);
    for (const person of state.people) this.#drawBox(context, person);
    if (state.rubber) this.#frame(context, state.rubber, "#fff", 2, [6, 4]);
    this.canvas.setAttribute("aria-label", this.#described(state));
  }

  // The smallest mask last, as in the downloads.
  #backToFront({ people, view }) {
    const size = ({ layers }) => (layers[this.index] ? area(layers[this.index], view.threshold) : 0);
    return people.map((person) => [size(person), person]).sort(([a], [b]) => b - a).map(([, person]) => person);
  }

  // The canvas has as many pixels as the screen shows of it, and no more than that.
  #fit(image) {
    const shown = Math.min(this.find(".stage").clientWidth, image.width * 2);
    this.scale = (Math.max(shown, 1) * devicePixelRatio) / image.width;
    const [width, height] = [image.width, image.height].map((n) => Math.max(1, Math.round(n * this.scale)));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
    this.canvas.dataset.width = image.width;
  }

  #drawLayer(context, person) {
    const layer = person.layers[this.index];
    if (!layer) return;
    const { view, selected } = this.state;
    const options = { ...view, pen: Math.max(1, Math.round((1.5 * devicePixelRatio) / this.scale)) };
    const place = [layer.window[0], layer.window[1], layer.width, layer.height].map((n) => n * this.scale);
    if (view.others && selected && layer.other) {
      context.drawImage(overlay(layer, "other", null, options), ...place);
    }
    if (view.targets) {
      context.drawImage(overlay(layer, "target", selected ? null : person.color, options), ...place);
    }
  }

  #drawBox(context, person) {
    const { view, selected } = this.state;
    const chosen = person === selected;
    if (!view.boxes && !chosen) return;
    const color = `rgb(${chosen ? [255, 255, 255] : person.color})`;
    context.globalAlpha = selected && !chosen ? 0.45 : 1;
    this.#frame(context, person.box, color, chosen ? 2.5 : 1.75, []);
    this.#tag(context, person, color);
    context.globalAlpha = 1;
    if (!chosen) return;
    this.#drawCorners(context, person.box);
    for (const point of person.points) this.#dot(context, point);
  }

  #drawCorners(context, [x1, y1, x2, y2]) {
    const side = Math.min(8 * devicePixelRatio, (Math.min(x2 - x1, y2 - y1) * this.scale) / 3);
    for (const [x, y] of [[x1, y1], [x2, y1], [x1, y2], [x2, y2]]) {
      const place = [x * this.scale - side / 2, y * this.scale - side / 2, side, side];
      context.fillStyle = "#fff";
      context.fillRect(...place);
      context.lineWidth = devicePixelRatio;
      context.strokeStyle = "#000";
      context.strokeRect(...place);
    }
  }

  #frame(context, box, color, width, dashes) {
    const [x1, y1, x2, y2] = box.map((n) => n * this.scale);
    context.setLineDash(dashes.map((n) => n * devicePixelRatio));
    for (const [stroke, extra] of [["rgb(0 0 0 / 0.55)", 2], [color, 0]]) {
      context.strokeStyle = stroke;
      context.lineWidth = (width + extra) * devicePixelRatio;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    context.setLineDash([]);
  }

  #tag(context, person, color) {
    const size = 13 * devicePixelRatio;
    const [x, y] = [person.box[0] * this.scale, person.box[1] * this.scale];
    context.font = `600 ${size}px system-ui, sans-serif`;
    const width = context.measureText(person.number).width + size * 0.8;
    context.fillStyle = color;
    context.fillRect(x, y, width, size * 1.4);
    context.fillStyle = "#000";
    context.textBaseline = "middle";
    context.fillText(person.number, x + size * 0.4, y + size * 0.75);
  }

  #dot(context, [x, y, label]) {
    context.beginPath();
    context.arc(x * this.scale, y * this.scale, 5 * devicePixelRatio, 0, 2 * Math.PI);
    context.fillStyle = label ? "#19e36b" : "#ff3b30";
    context.fill();
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = "#fff";
    context.stroke();
  }

  #drawTiles(layer) {
    this.find(".tiles").hidden = !layer;
    if (!layer) return;
    this.#drawCrop(layer);
    for (const [kind, title] of [["target", "target"], ["other", "non-target"]]) {
      const canvas = this.find(`.tile-${kind}`);
      canvas.parentElement.hidden = !layer[kind];
      if (!layer[kind]) continue;
      Object.assign(canvas, { width: layer.width, height: layer.height });
      canvas.getContext("2d").drawImage(heat(layer, kind), 0, 0);
      canvas.setAttribute("aria-label", `Probability of the ${title} inside the selected box, as a heat map`);
    }
  }

  // What the canvas shows of the box before boxes are drawn on it.
  #drawCrop(layer) {
    const canvas = this.find(".tile-box");
    Object.assign(canvas, { width: layer.width * this.scale, height: layer.height * this.scale });
    const [x, y] = layer.window.map((n) => n * this.scale);
    const context = canvas.getContext("2d");
    context.drawImage(this.canvas, x, y, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", "The selected box");
  }

  #described({ people, selected, image }) {
    const count = people.length === 1 ? "1 box" : `${people.length} boxes`;
    return `${image.name} with ${count}${selected ? `, person ${selected.number} selected` : ""}`;
  }

  // --- pointer ------------------------------------------------------------------------------------

  #listen() {
    let start = null;
    const box = (event) => {
      const [x, y] = this.#where(event);
      const [x1, y1, x2, y2] = start.sides.length ? this.#resized(start, x, y) : [start.x, start.y, x, y];
      return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      const [x, y] = this.#where(event);
      start = { x, y, left: event.clientX, top: event.clientY, sides: this.#sides(event), person: this.state.selected };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.isPrimary) return;
      this.#read(...this.#where(event));
      if (!start) this.canvas.style.cursor = cursor(this.#sides(event));
      else if (moved(start, event)) this.on.rubber(box(event));
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (!start || !event.isPrimary) return;
      const drawn = moved(start, event) ? box(event) : null;
      this.on.rubber(null);
      if (drawn && start.sides.length) this.on.resize(start.person, drawn);
      else if (drawn) this.on.box(drawn);
      else if (event.shiftKey || event.altKey) this.on.point(start.x, start.y, event.shiftKey ? 1 : 0);
      else this.on.pick(start.x, start.y);
      start = null;
    });
    const stop = () => {
      start = null;
      this.on.rubber(null);
    };
    this.canvas.addEventListener("pointercancel", stop);
    addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !start) return;
      event.stopImmediatePropagation();
      stop();
    });
    this.canvas.addEventListener("pointerleave", () => (this.find(".readout").textContent = ""));
  }

  // The sides of the selected box that the pointer reaches, as indices of x1, y1, x2, y2: none, one, or two at a corner.
  #sides(event) {
    const box = this.state.selected?.box;
    if (!box) return [];
    const scale = this.canvas.getBoundingClientRect().width / this.state.image.width;
    const reach = (REACH[event.pointerType] ?? REACH.mouse) / scale;
    const where = this.#where(event);
    if (where.some((v, i) => v < box[i] - reach || v > box[i + 2] + reach)) return [];
    const away = (side) => Math.abs(where[side % 2] - box[side]);
    return [0, 1].map((i) => (away(i) <= away(i + 2) ? i : i + 2)).filter((side) => away(side) <= reach);
  }

  // The selected box after its sides have followed the pointer to x, y; kept within the image.
  #resized(start, x, y) {
    const { width, height } = this.state.image;
    const [by, limits] = [[x - start.x, y - start.y], [width, height]];
    return start.person.box.map((value, i) =>
      start.sides.includes(i) ? Math.min(Math.max(value + by[i % 2], 0), limits[i % 2]) : value);
  }

  // The pointer in pixels of the image, kept within it.
  #where(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const { image } = this.state;
    const x = ((event.clientX - left) / width) * image.width;
    const y = ((event.clientY - top) / height) * image.height;
    return [Math.min(Math.max(x, 0), image.width), Math.min(Math.max(y, 0), image.height)];
  }

  #read(x, y) {
    const { people, selected } = this.state;
    const shown = selected ? [selected] : people;
    const parts = [`x ${Math.floor(x)}, y ${Math.floor(y)}`];
    for (const { number, layers } of shown) {
      const [target, other] = ["target", "other"].map((kind) => layers[this.index] && at(layers[this.index], kind, x, y));
      if (target === null || target === undefined) continue;
      parts.push(`person ${number}: target ${target.toFixed(2)}` + (other === null ? "" : `, non-target ${other.toFixed(2)}`));
    }
    this.find(".readout").textContent = parts.join(" · ");
  }
}

function moved({ left, top, sides }, event) {
  const way = [Math.abs(event.clientX - left), Math.abs(event.clientY - top)];
  return (sides.length ? Math.max(...way) : Math.min(...way)) >= CLICK;
}

function cursor([first, second]) {
  if (first === undefined) return "";
  if (second === undefined) return first % 2 ? "ns-resize" : "ew-resize";
  return second - first === 1 ? "nwse-resize" : "nesw-resize";
}
