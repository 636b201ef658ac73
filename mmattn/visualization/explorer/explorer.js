// The state of the page, what changes it, and the address that holds it.

const state = { image: 0, at: told.points[0] ?? [0.5, 0.5], pin: told.points[1] ?? null, base: "photo", classes: 0.6, theme: "", ...told.begin };
const byId = (id) => document.getElementById(id);
const NUMBERS = { opacity: [0, 1], classes: [0, 1], clip: [90, 100], log: [0, 6] };
const BASES = ["photo", "prediction", "truth"];
let waiting = false, saying = 0, keeping = 0;

const page = {
  at: () => state.at,
  image: () => state.image,

  // Draw at the next frame, once for all that changed since the last.
  changed() {
    if (waiting || !page.loaded) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  },

  listen(frame, panel) {
    const point = ({ clientX, clientY }) => {
      const { left, top, width, height } = frame.getBoundingClientRect();
      return [(clientX - left) / width, (clientY - top) / height].map((part) => Math.min(Math.max(part, 0), 1 - 1e-6));
    };
    frame.onpointermove = (event) => look(point(event));
    frame.onpointerdown = (event) => {
      if (event.pointerType !== "mouse") frame.setPointerCapture(event.pointerId);
      look(point(event));
    };
    frame.onclick = (event) => { if (event.pointerType === "mouse") pin(panel); };
    frame.onkeydown = (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (by) step(panel, by, event.shiftKey ? 8 : 1);
      else if (event.key === "Enter" || event.key === " ") pin(panel);
      else return;
      event.preventDefault();
    };
  },
};

const panels = told.models.map((_, model) => new Panel(model, page));

function look(at) {
  state.at = at;
  page.changed();
}

// To the middle of the neighbouring cell, as far as the image goes.
function step(panel, [right, down], cells) {
  const [y, x] = panel.cell(state.at), [h, w] = panel.entry.size, [high, wide] = panel.shot.reach;
  const to = (i, n, reach) => Math.min(Math.max(((Math.min(Math.max(i, 0), n - 1) + 0.5) / n) * reach, 0), 1 - 1e-6);
  look([to(x + right * cells, w, wide), to(y + down * cells, h, high)]);
}

function pin(panel = panels[0]) {
  const same = state.pin && String(panel.cell(state.pin)) === String(panel.cell(state.at));
  state.pin = same ? null : state.at;
  page.changed();
}

function draw() {
  for (const [id, [, most]] of Object.entries(NUMBERS)) {
    const input = byId(id);
    input.value = state[id];
    const text = { clip: `${+state.clip.toFixed(1)} %`, log: state.log ? `${state.log} decade${state.log === 1 ? "" : "s"}` : "linear" };
    input.nextElementSibling.textContent = text[id] ?? `${Math.round((state[id] / most) * 100)} %`;
  }
  byId("classes").disabled = state.base === "photo";
  const bases = BASES.filter((base) => base !== "truth" || panels.some((panel) => panel.classes.truth)).map((base) => [base, base]);
  settle(byId("base"), [bases, state.base], () => [choice("Beneath the attention", bases, state.base, (base) => set({ base }))]);
  byId("pin").setAttribute("aria-pressed", Boolean(state.pin));
  byId("pin").textContent = state.pin ? "Unpin" : "Pin";
  document.documentElement.dataset.theme = state.theme;
  for (const panel of panels) panel.draw(state);
  keep();
  clearTimeout(saying);
  saying = setTimeout(() => {
    byId("said").textContent = [...panels[0].reading.children].map((part) => part.textContent).join(" ");
  }, 600);
}

async function show(image) {
  page.loaded = false;
  state.image = image;
  await Promise.all(panels.map((panel) => panel.load(image)));
  if (image !== state.image) return;
  page.loaded = true;
  document.querySelectorAll("#images button").forEach((button, i) => button.setAttribute("aria-current", i === image));
  byId("name").textContent = told.images[image].name;
  draw();
}

function set(changes) {
  Object.assign(state, changes);
  page.changed();
}

// The address

function keep() {
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", `#${address()}`), 250);
}

function address() {
  const point = (at) => at.map((part) => part.toFixed(4)).join();
  const words = { image: state.image, at: point(state.at), base: state.base, theme: state.theme };
  if (state.pin) words.pin = point(state.pin);
  for (const id of Object.keys(NUMBERS)) words[id] = state[id];
  panels.forEach(({ model, layer, view, chosen, channel }) => {
    words[`m${model}`] = [layer, view, chosen ? [...chosen].join("+") || "none" : "", channel ?? ""].join();
  });
  return new URLSearchParams(Object.entries(words).filter(([, value]) => value !== ""));
}

// What the address says, as far as it makes sense for this page.
function restore() {
  const words = new URLSearchParams(location.hash.slice(1));
  const point = (text) => {
    const parts = (text ?? "").split(",").map(parseFloat);
    return parts.length === 2 && parts.every((part) => part >= 0 && part < 1) ? parts : null;
  };
  state.at = point(words.get("at")) ?? state.at;
  if (words.size) state.pin = point(words.get("pin"));
  for (const [id, [least, most]] of Object.entries(NUMBERS)) {
    const value = parseFloat(words.get(id));
    if (value >= least && value <= most) state[id] = value;
  }
  if (BASES.includes(words.get("base"))) state.base = words.get("base");
  if (["light", "dark"].includes(words.get("theme"))) state.theme = words.get("theme");
  const image = Number(words.get("image")), wanted = panels.map(({ model }) => words.get(`m${model}`)?.split(","));
  return { image: told.images[image] ? image : 0, wanted };
}

function apply(wanted) {
  panels.forEach((panel, i) => {
    if (!wanted[i]) return;
    const [layer, view, chosen, channel] = wanted[i], numbers = (text) => text.split("+").map(Number).filter(Number.isInteger);
    if (!panel.shot.layers[+layer]) return;
    panel.choose({ layer: +layer, view, chosen: chosen ? new Set(chosen === "none" ? [] : numbers(chosen)) : null });
    const count = panel.reader.gate?.length ?? panel.reader.count ?? 0;
    if (channel && count > +channel && +channel >= 0 && Number.isInteger(+channel)) panel.choose({ chosen: panel.chosen, channel: +channel });
  });
}

async function open() {
  const { image, wanted } = restore();
  await show(image);
  apply(wanted);
  draw();
}

// The buttons

for (const id of Object.keys(NUMBERS)) byId(id).oninput = (event) => set({ [id]: +event.target.value });
byId("pin").onclick = () => (state.pin ? set({ pin: null }) : pin());
byId("help").onclick = () => byId("keys").showModal();
byId("theme").onclick = () => {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  set({ theme: dark ? "light" : "dark" });
};
byId("link").onclick = async () => {
  history.replaceState(null, "", `#${address()}`);
  const button = byId("link"), text = button.textContent;
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "See the address bar"; // the browser keeps its clipboard to itself
  }
  setTimeout(() => (button.textContent = text), 1500);
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("keys").open) set({ pin: null });
  const by = { PageUp: -1, PageDown: 1 }[event.key];
  if (!by || !told.images[state.image + by] || event.target.closest("input, select, dialog")) return;
  event.preventDefault();
  show(state.image + by);
});
addEventListener("resize", page.changed);
addEventListener("hashchange", open);

if (told.images.length > 1) {
  byId("images").append(...told.images.map(({ name }, i) => {
    const photo = make("img", { alt: name, src: `data:image/jpeg;base64,${byId(`photo-${i}`).textContent}` });
    return make("button", { type: "button", title: name, onclick: () => show(i) }, photo);
  }));
}
byId("panels").append(...panels.map((panel) => panel.element));

// For scripts: what the page shows, and where it looks.
if (!window.DecompressionStream) byId("panels").textContent = "This page needs a browser of 2023 or later.";
window.mmattn = {
  ready: open(),
  // What the query attends to by a model as it is shown: {y, x, size: [h, w], values: weights, took: milliseconds}.
  // Of a channel gate all its values, of attention between channels all of it.
  row(model = 0, pinned = false) {
    const { reader } = panels[model];
    if (reader.gate ?? reader.attention) return { size: [reader.count ?? 1, reader.count ?? reader.gate.length], values: Array.from(reader.gate ?? reader.attention) };
    const { y, x, size, weights, took } = panels[model].map(pinned ? state.pin : state.at);
    return { y, x, size, values: Array.from(weights), took };
  },
  // Look at a point, in fractions of the image; layer and view are of one model.
  look([x, y], { model = 0, layer, view } = {}) {
    state.at = [x, y];
    panels[model].choose({ layer, view });
    draw();
  },
  layers: (model = 0) => panels[model].shot.layers.map(({ title, place, kind }) => ({ title, place, kind })),
  views: (model = 0) => panels[model].reader.views,
};
