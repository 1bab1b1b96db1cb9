// State and controls of the page. Drawing is in pane.js, requests are in server.js.

import { read } from "./layers.js";
import { Pane } from "./pane.js";
import * as server from "./server.js";

const id = (name) => document.getElementById(name);
const SIDES = ["x1", "y1", "x2", "y2"];

const state = {
  image: null, // {key, name, imageId, bitmap, width, height}
  // {number, box, score, color, points, layers: one per model, shown: box and score of the layers, turn: their request}
  people: [],
  selected: null, // one of them; null: all are shown
  rubber: null, // the box being drawn or resized
  view: {},
};
let setup; // the answer of /models
let panes = [];
let numbers = 0;
let opening = null; // AbortController of the image being opened
let detecting = null; // AbortController of the detection in progress
let filled; // the box in the form
let busy = 0;
let frame = 0;

// --- showing --------------------------------------------------------------------------------------

function redraw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const pane of panes) pane.draw(state);
  });
}

function refresh() {
  state.view = {
    style: document.querySelector("input[name=style]:checked").value,
    targets: id("targets").checked,
    others: id("non-targets").checked,
    outlines: id("outlines").checked,
    boxes: id("boxes").checked,
    opacity: Number(id("opacity").value),
    threshold: Number(id("threshold").value),
  };
  for (const name of ["opacity", "threshold"]) id(`${name}-value`).textContent = state.view[name].toFixed(2);
  id("detect").disabled = !(state.image && setup.detector);
  id("detect").textContent = detecting ? "Cancel" : "Detect people";
  id("nobody").hidden = state.people.length > 0;
  id("point-hint").hidden = !(state.selected && setup.models.some((model) => model.points));
  listPeople();
  fillForm();
  for (const pane of panes) {
    const done = state.people.length > 0 && state.people.every((person) => person.layers[pane.index]);
    for (const name of [".save-all", ".save-json"]) pane.find(name).disabled = !done;
    pane.find(".save-one").disabled = !(done && state.selected);
  }
  redraw();
}

function listPeople() {
  const rows = state.people.map((person) => {
    const row = id("person").content.cloneNode(true).firstElementChild;
    const [pick, remove] = row.children;
    pick.textContent = `${person.number} · ${person.score === null ? "your box" : `detected ${person.score.toFixed(2)}`}`;
    pick.style.setProperty("--color", `rgb(${person.color})`);
    pick.onclick = () => select(person);
    pick.setAttribute("aria-pressed", person === state.selected);
    remove.setAttribute("aria-label", `Remove person ${person.number}`);
    remove.onclick = () => drop(person);
    return row;
  });
  if (rows.length > 1) rows.unshift(listAll());
  const buttons = () => [...id("people").querySelectorAll("button")];
  const focused = buttons().indexOf(document.activeElement);
  id("people").replaceChildren(...rows);
  if (focused >= 0) buttons()[Math.min(focused, buttons().length - 1)]?.focus();
}

function listAll() {
  const row = id("person").content.cloneNode(true).firstElementChild;
  const [pick, remove] = row.children;
  pick.textContent = "Everybody";
  pick.onclick = () => select(null);
  pick.setAttribute("aria-pressed", state.selected === null);
  remove.setAttribute("aria-label", "Remove everybody");
  remove.onclick = () => clear();
  return row;
}

// Write the selected box into the form, where it can be changed.
function fillForm() {
  id("change").disabled = !state.selected;
  const box = state.selected?.box;
  if (box === filled) return;
  filled = box;
  SIDES.forEach((name, i) => (id("numbers").elements[name].value = box ? Number(box[i].toFixed(1)) : ""));
}

function say(text) {
  id("message").textContent = text;
  id("message").hidden = !text;
}

// Run a task that talks to the server and show its errors.
async function during(text, task) {
  busy++;
  say("");
  id("status").textContent = text;
  document.body.classList.add("busy");
  try {
    return await task();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  } finally {
    if (--busy === 0) {
      id("status").textContent = "";
      document.body.classList.remove("busy");
    }
    refresh();
  }
}

// --- people ---------------------------------------------------------------------------------------

function select(person) {
  state.selected = person;
  refresh();
}

function drop(person) {
  state.people = state.people.filter((other) => other !== person);
  if (state.selected === person) state.selected = null;
  refresh();
}

function clear() {
  detecting?.abort();
  state.people = [];
  state.selected = null;
  numbers = 0;
  refresh();
}

// Add boxes with their scores (null: drawn by hand) and ask every model for their masks.
async function add(boxes, scores, signal) {
  const added = boxes.map((box, i) => ({
    number: ++numbers,
    box,
    score: scores[i],
    color: setup.colors[(numbers - 1) % setup.colors.length],
    points: [],
    layers: [],
  }));
  state.people.push(...added);
  if (added.length) await segment(added, signal);
}

// Ask every model for these people's masks. Answers for another image or to an earlier request are dropped; if the
// request fails, a person without masks is removed and a resized box gets its earlier sides back.
async function segment(people, signal) {
  const { image } = state;
  const turn = {};
  const asked = people.map(({ box, score }) => ({ box, score }));
  for (const person of people) person.turn = turn;
  try {
    const answers = await Promise.all(panes.map((pane) => server.predict(query(pane.index, people), signal)));
    const layers = await Promise.all(answers.map(read));
    signal?.throwIfAborted();
    if (image !== state.image) return;
    panes.forEach((pane, i) => (pane.find(".time").textContent = `${answers[i].milliseconds} ms`));
    people.forEach((person, i) => {
      if (person.turn === turn) Object.assign(person, { layers: layers.map((each) => each[i]), shown: asked[i] });
    });
  } catch (error) {
    if (image !== state.image) return;
    for (const person of people.filter((each) => each.turn === turn)) {
      if (person.shown) Object.assign(person, person.shown);
      else drop(person);
    }
    throw error;
  }
}

// What the server is asked about these people.
function query(model, people) {
  const clicks = Math.max(...people.map((person) => person.points.length), 0);
  const padded = ({ points }) => [...points, ...Array(clicks - points.length).fill([0, 0, -1])];
  return {
    image: state.image.key,
    model,
    image_id: state.image.imageId,
    threshold: state.view.threshold,
    boxes: people.map((person) => person.box),
    scores: people.map((person) => person.score ?? 1),
    ...(clicks ? { points: people.map(padded) } : {}),
  };
}

const onPane = {
  box: (box) => during("Segmenting…", async () => {
    const task = add([box], [null]);
    select(state.people.at(-1));
    await task;
  }),
  resize(person, box) {
    Object.assign(person, { box, score: null });
    refresh();
    return during("Segmenting…", () => segment([person]));
  },
  pick(x, y) {
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const inside = ({ box: [x1, y1, x2, y2] }) => x >= x1 && x < x2 && y >= y1 && y < y2;
    const [smallest] = state.people.filter(inside).sort((a, b) => area(a) - area(b));
    select(smallest && smallest !== state.selected ? smallest : null);
  },
  point(x, y, label) {
    const person = state.selected;
    if (!person || !setup.models.some((model) => model.points)) return;
    person.points.push([x, y, label]);
    during("Segmenting…", () => segment([person]));
  },
  rubber(box) {
    state.rubber = box;
    redraw();
  },
};

// --- controls -------------------------------------------------------------------------------------

function openImage(file) {
  opening?.abort();
  const { signal } = (opening = new AbortController());
  return during("Opening…", async () => {
    if (file.size > setup.max_megabytes * 1e6) {
      throw new Error(`${file.name} is larger than ${setup.max_megabytes} MB: scale it down`);
    }
    const opened = await server.open(file, signal);
    const stem = file.name.replace(/\.[^.]*$/, "");
    const bitmap = await createImageBitmap(file);
    signal.throwIfAborted();
    clear();
    state.image = {
      key: opened.image,
      name: stem,
      imageId: /^\d{1,15}$/.test(stem) ? Number(stem) : 0,
      bitmap,
      width: opened.width,
      height: opened.height,
    };
    for (const pane of panes) pane.find(".time").textContent = "";
    if (setup.detector) await detect();
  });
}

function detect() {
  const mine = (detecting = new AbortController());
  return during("Detecting…", async () => {
    refresh();
    const { boxes, scores } = await server.detect({ image: state.image.key }, mine.signal);
    state.people = state.people.filter((person) => person.score === null);
    numbers = Math.max(0, ...state.people.map((person) => person.number));
    if (!state.people.includes(state.selected)) state.selected = null;
    if (!boxes.length) say("The detector finds no one in this image: drag a box.");
    await add(boxes, scores, mine.signal);
  }).finally(() => {
    if (detecting === mine) detecting = null;
    refresh();
  });
}

function save(pane, what) {
  return during("Saving…", async () => {
    const asked = query(pane.index, state.people);
    const name = panes.length > 1 ? `${state.image.name}_${pane.index + 1}` : state.image.name;
    if (what === "json") {
      const { results } = await server.predict(asked);
      server.save(new Blob([JSON.stringify(results, null, 1)], { type: "application/json" }), `${name}.json`);
    } else if (what === "all") {
      server.save(await server.mask(asked), `${name}_labels.png`);
    } else {
      const instance = state.people.indexOf(state.selected);
      server.save(await server.mask({ ...asked, instance }), `${name}_person_${state.selected.number}.png`);
    }
  });
}

function listen() {
  id("open").onclick = () => id("file").click();
  id("file").onchange = ({ target }) => {
    const [file] = target.files;
    target.value = ""; // the same file can be chosen again
    if (file) openImage(file);
  };
  id("detect").onclick = () => (detecting ? detecting.abort() : detect());
  for (const input of document.querySelectorAll("fieldset input[type=radio], fieldset input[type=checkbox], input[type=range]")) {
    input.oninput = refresh;
  }
  id("numbers").onsubmit = (event) => {
    event.preventDefault();
    if (!state.image) return say("Open an image first.");
    const box = SIDES.map((name) => Number(event.target.elements[name].value));
    if (event.submitter?.id === "change") onPane.resize(state.selected, box);
    else onPane.box(box);
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) openImage(file);
  });
  addEventListener("keydown", ({ key, target }) => {
    if (target.matches("input")) return;
    if (key === "Escape" && detecting) detecting.abort();
    else if (key === "Escape") select(null);
    if (key === "Delete" && state.selected) drop(state.selected);
  });
  addEventListener("resize", redraw);
}

await during("Loading…", async () => {
  setup = await server.models();
  panes = setup.models.map((model, i) => new Pane(i, model, onPane));
  id("panes").replaceChildren(...panes.map((pane) => pane.figure));
  for (const pane of panes) {
    pane.find(".save-all").onclick = () => save(pane, "all");
    pane.find(".save-one").onclick = () => save(pane, "one");
    pane.find(".save-json").onclick = () => save(pane, "json");
  }
  if (!setup.detector) id("detect").title = "The page was started without a way to read the detector's boxes";
  listen();
});
