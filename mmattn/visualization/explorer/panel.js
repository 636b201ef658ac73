// One model: its layers, the picture with the map over it, and what can be read from it.

class Panel {
  constructor(model, page) {
    Object.assign(this, { model, page, layer: 0, view: null, chosen: null, channel: null, stages: [] });
    const name = told.models[model];
    this.select = make("select", { ariaLabel: `Layer of ${name}`, onchange: () => this.choose({ layer: this.select.selectedIndex, view: null }) });
    this.stagesBox = make("div", { className: "stages" });
    this.views = make("div", { className: "views" });
    this.note = make("p", { className: "note" });
    this.legend = make("canvas", { className: "colours", width: 256, height: 1, role: "img" });
    this.ticks = make("div", { className: "ticks" });
    this.unit = make("p", { className: "unit" });
    this.legendBox = make("div", { className: "legend" }, this.legend, this.ticks, this.unit);
    this.reading = make("dl", { className: "reading" });
    this.extras = make("div", { className: "extras" });
    this.small = make("p", { className: "small" });
    this.element = make("section", { className: "panel", ariaLabel: name },
      make("header", {}, make("h2", { textContent: name }), this.select),
      make("div", { className: "body" }, this.stagesBox,
        make("div", { className: "side" }, this.views, this.note, this.legendBox, this.reading, this.extras, this.small)));
  }

  async load(image) {
    const bytes = await inflate(`numbers-${image}-${this.model}`);
    if (image !== this.page.image()) return; // another one was chosen meanwhile
    Object.assign(this, { image, bytes, shot: told.shots[image][this.model] });
    this.readers = new Map();
    const { prediction, truth } = this.shot;
    this.classes = { prediction: unpack(this.bytes, prediction).data, truth: truth && unpack(this.bytes, truth).data };
    this.select.replaceChildren(...this.shot.layers.map(({ title, place, direction }) =>
      make("option", { textContent: `${title}${direction ? `, ${direction}` : ""} · ${place}` })));
    this.select.disabled = this.shot.layers.length < 2;
    this.choose({ layer: Math.min(this.layer, this.shot.layers.length - 1), view: this.view });
  }

  get entry() { return this.shot.layers[this.layer]; }

  get reader() {
    const { readers, layer, entry, bytes } = this;
    if (!readers.has(layer)) readers.set(layer, readersOf(entry, bytes));
    return readers.get(layer);
  }

  // Whether the picture depends on the query.
  get moves() { return this.reader.moves && !this.reader.still?.(this.view); }

  choose({ layer = this.layer, view = this.view, ...rest }) {
    const kept = layer === this.layer ? this : {}, { chosen = kept.chosen ?? null, channel = kept.channel ?? null } = rest;
    Object.assign(this, { layer, chosen, channel });
    this.select.selectedIndex = layer;
    const { views } = this.reader;
    this.view = views.some(([key]) => key === view) ? view : views[0][0];
    if (this.reader.regions && this.view !== "row") this.chosen ??= this.guessed = new Set([sorted(this.reader.shares(...this.cell(this.page.at())))[0]]);
    else if (this.chosen === this.guessed) this.chosen = null; // nobody chose it
    if (this.reader.gate) this.channel ??= this.reader.order[0];
    if (this.entry.kind === "channels") this.channel ??= this.entry.order[0];
    this.page.changed();
  }

  // The cell of the layer's grid that a point of the image is in, as [row, column].
  cell([x, y], size = this.entry.size) {
    return [y, x].map((part, axis) => Math.min(size[axis] - 1, Math.floor((part / this.shot.reach[axis]) * size[axis])));
  }

  // The map for a query: values over a grid, in the legend's unit.
  map(at) {
    const { entry, reader, view, chosen } = this, [y, x] = this.cell(at);
    if (reader.gate) {
      const feature = reader.maps.get(this.channel);
      return feature && { size: feature.size, values: feature.values, unit: "feature", times: 1 };
    }
    const begin = performance.now(), weights = reader.row(view, y, x, chosen), took = performance.now() - begin;
    const times = reader.times(view), size = reader.keys?.(view) ?? entry.keys;
    const values = times === 1 ? weights : weights.map((weight) => weight * times);
    return { y, x, size, weights, values, times, unit: reader.unit?.(view) ?? entry.unit, took };
  }

  draw(state) {
    this.element.classList.toggle("alone", told.models.length === 1);
    settle(this.views, [this.image, this.layer, this.view], () => {
      if (this.reader.views.length > 8) return [this.menu()];
      return this.reader.views.length > 1 ? [choice("View", this.reader.views, this.view, (view) => this.choose({ view }))] : [];
    });
    this.note.textContent = this.reader.note?.(this.view) ?? this.entry.note;
    const { reduced, error } = this.entry;
    const close = error === undefined ? "" : `; rows within ${written(Math.max(error, 1e-5) * 100)} % of their maximum`;
    this.small.textContent = reduced ? `Stored: ${reduced}${close}.` : "";
    if (this.entry.kind === "channels") this.drawChannels(state);
    else this.drawStages(state);
  }

  menu() {
    const menu = make("select", { ariaLabel: "View", onchange: () => this.choose({ view: this.reader.views[menu.selectedIndex][0] }) });
    menu.append(...this.reader.views.map(([, label]) => make("option", { textContent: label[0].toUpperCase() + label.slice(1) })));
    menu.selectedIndex = this.reader.views.findIndex(([key]) => key === this.view);
    return menu;
  }

  drawStages(state) {
    const queries = state.pin && this.moves ? [state.at, state.pin] : [state.at];
    const [height, width] = told.images[this.image].size;
    this.element.style.setProperty("--wide", (width / height) * queries.length);
    while (this.stages.length < queries.length) this.stages.push(new Stage(this));
    this.stages.length = queries.length;
    if (this.stagesBox.childElementCount !== queries.length || this.stagesBox.firstChild !== this.stages[0].element) {
      this.stagesBox.replaceChildren(...this.stages.map((stage) => stage.element));
    }
    this.maps = queries.map((at) => this.map(at));
    const shown = this.maps.filter(Boolean), scale = shown.length && scaleOf(joined(shown), shown[0].unit, state.clip, state.log);
    this.stages.forEach((stage, i) => stage.draw(state, this.maps[i], scale, i === 1, queries.length > 1));
    this.drawLegend(scale, shown[0]?.unit);
    this.drawReading(state);
    this.drawExtras(state);
  }

  drawLegend(scale, unit) {
    this.legendBox.hidden = !scale;
    if (!scale) return;
    const { low, high, most, signed } = scale;
    const line = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) line.data.set([...scale.table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    this.legend.getContext("2d").putImageData(line, 0, 0);
    const clipped = most > high * 1.005, ends = [low, scale.value(0.5), high].map(written);
    if (clipped) ends[2] = `≥ ${ends[2]}`;
    if (signed) ends[1] = "0";
    this.ticks.replaceChildren(...ends.map((text) => make("span", { textContent: text })));
    this.unit.textContent = unit + (clipped ? ` · at most ${written(most)}` : "");
    this.legend.setAttribute("aria-label", `Colours from ${ends[0]} to ${ends[2]}, ${this.unit.textContent}`);
  }

  // [name, colour] of the class at a point, or undefined.
  classAt(plane, [x, y]) {
    const [h, w] = this.shot.shown, value = plane?.[Math.min(h - 1, Math.floor(y * h)) * w + Math.min(w - 1, Math.floor(x * w))];
    if (value === undefined) return undefined;
    return value < this.shot.classes.length ? [this.shot.classes[value], this.shot.colours[value]] : ["unlabelled", null];
  }

  drawReading({ at, pin }) {
    const [height, width] = told.images[this.image].size, pixel = ([x, y]) => `${Math.floor(x * width)}, ${Math.floor(y * height)}`;
    const rows = [["pixel", pixel(at)]];
    for (const [label, plane] of [["predicted", this.classes.prediction], ["truth", this.classes.truth]]) {
      const found = this.classAt(plane, at);
      if (found) rows.push([label, named(found)]);
    }
    const [here, pinned] = this.maps;
    if (here) {
      const value = (map, point) => {
        const [y, x] = this.cell(point, map.size), weight = map.values[y * map.size[1] + x];
        if (!map.unit.endsWith("uniform")) return written(weight);
        if (weight > 0 && weight < 0.001) return `< 0.001 ${map.unit}`;
        return `${written(weight)} ${map.unit} · ${written((weight / map.times) * 100)}\u00a0%`;
      };
      rows.push([this.moves ? "weight on itself" : `${here.unit.endsWith("uniform") ? "weight" : here.unit} here`, value(here, at)]);
      if (pinned) rows.push(["weight on the pin", value(here, pin)], ["weight from the pin", value(pinned, at)]);
    }
    this.reading.replaceChildren(...rows.flatMap(([term, text]) => [make("dt", { textContent: term }), make("dd", {}, text)]));
  }

  drawExtras(state) {
    const { reader } = this;
    if (reader.regions) this.drawRegions(state);
    else if (reader.gate) this.drawBarsOf(reader.gate, reader.order, "gate", [...reader.maps.keys()]);
    else settle(this.extras, "", () => []);
  }

  drawRegions({ at }) {
    const { reader, shot } = this, count = reader.regions, ofClasses = count === shot.classes.length;
    const pick = (set) => this.choose({ chosen: set.size === count ? null : set }), every = () => new Set(Array(count).keys());
    settle(this.extras, [this.image, this.layer], () => {
      const chips = reader.used(40).map((region) => {
        const chip = make("button", { type: "button", className: "chip", title: "Double click: only this one" },
          ofClasses ? swatch(shot.colours[region]) : "", ofClasses ? shot.classes[region] : `region ${region}`, make("small"));
        chip.dataset.region = region;
        chip.onclick = (event) => {
          const next = event.detail > 1 ? new Set() : new Set(this.chosen ?? every());
          if (!next.delete(region)) next.add(region);
          pick(next);
        };
        return chip;
      });
      const all = make("button", { type: "button", textContent: "all", onclick: () => pick(every()) });
      const none = make("button", { type: "button", textContent: "none", onclick: () => pick(new Set()) });
      const label = make("p", { className: "label" }, `${ofClasses ? "Classes" : "Regions"} counted in, with their weight`, make("span", {}, all, none));
      return [make("div", { className: "regions" }, label, ...chips)];
    });
    const shares = reader.shares(...this.cell(at));
    for (const chip of this.extras.querySelectorAll(".chip")) {
      const region = +chip.dataset.region, share = shares[region];
      chip.setAttribute("aria-pressed", this.chosen?.has(region) ?? true);
      chip.style.setProperty("--share", share);
      chip.lastChild.textContent = `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
    }
  }

  // Sorted bars, one channel chosen, and small pictures of the channels that there are maps of.
  drawBarsOf(values, order, label, channels = []) {
    if (!this.bars?.isConnected) {
      this.bars = make("canvas", { className: "bars", tabIndex: 0, role: "slider", ariaLabel: "Channel, in falling order" });
      this.caption = make("p", { className: "label" });
      this.thumbs = make("div", { className: "thumbs" });
      this.extras.replaceChildren(this.bars, this.caption, this.thumbs);
      delete this.extras.dataset.of;
    }
    const { bars } = this, rank = order.indexOf(this.channel), pick = (i) => {
      const channel = order[Math.min(order.length - 1, Math.max(0, i))];
      if (channel !== this.channel) this.choose({ channel });
    };
    bars.onpointermove = bars.onpointerdown = (event) => pick(Math.floor((event.offsetX / bars.clientWidth) * order.length));
    bars.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -order.length, End: order.length }[event.key];
      if (!by) return;
      event.preventDefault();
      pick(rank + by);
    };
    Object.entries({ min: 1, max: order.length, now: rank + 1 }).forEach(([name, value]) => bars.setAttribute(`aria-value${name}`, value));
    const said = `channel ${this.channel}: ${label} ${written(values[this.channel])}, rank ${rank + 1} of ${order.length}`;
    bars.setAttribute("aria-valuetext", said);
    const average = values.reduce((sum, value) => sum + value, 0) / values.length;
    this.caption.textContent = `${said}; mean ${written(average)}, dashed` + (channels.length && !channels.includes(this.channel) ? " (no map kept)" : "");
    drawBars(bars, values, order, this.channel);
    const key = `${this.image} ${this.layer}`;
    if (this.thumbs.dataset.of !== key) {
      this.thumbs.dataset.of = key;
      this.thumbs.replaceChildren(...channels.map((channel) => {
        const { size, values: plane } = this.reader.maps.get(channel), canvas = make("canvas");
        const scale = scaleOf(plane, "feature", 99.5, 0);
        paint(canvas, plane, size, { ...scale, strength: () => 1 }, 1);
        const button = make("button", { type: "button", title: `channel ${channel}` }, canvas, make("span", { textContent: channel }));
        button.dataset.channel = channel;
        button.onclick = () => this.choose({ channel });
        return button;
      }));
    }
    this.thumbs.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", +b.dataset.channel === this.channel));
  }

  drawChannels(state) {
    const { attention, count } = this.reader, { order } = this.entry;
    const key = `${this.image} ${this.layer} ${state.clip} ${state.log}`;
    this.element.style.setProperty("--wide", 0.86);
    if (this.matrix?.dataset.of !== key || !this.matrix.isConnected) {
      this.stages = [];
      this.matrix = make("canvas", { className: "matrix", role: "img", ariaLabel: `What each of ${count} channels takes from each other` });
      this.matrix.dataset.of = key;
      this.scale = scaleOf(attention.map((value) => value * count), this.entry.unit, state.clip, state.log);
      drawMatrix(this.matrix, attention, count, order, this.scale);
      this.line = make("div", { className: "line" });
      this.matrix.onpointermove = this.matrix.onpointerdown = (event) => {
        const row = Math.floor((event.offsetY / this.matrix.clientHeight) * count);
        this.choose({ channel: order[Math.min(count - 1, Math.max(0, row))] });
      };
      this.stagesBox.replaceChildren(make("figure", { className: "stage square" }, make("div", { className: "holder" }, this.matrix, this.line),
        make("figcaption", { textContent: "each row is a channel, each column what it takes from; the most taken from first" })));
    }
    this.line.style.top = `${((order.indexOf(this.channel) + 0.5) / count) * 100}%`;
    this.maps = [];
    this.drawLegend(this.scale, this.entry.unit);
    const row = attention.subarray(this.channel * count, (this.channel + 1) * count), best = sorted(row).slice(0, 5);
    this.reading.replaceChildren(make("dt", { textContent: "takes most from" }),
      make("dd", { textContent: best.map((channel) => `${channel} (${written(row[channel] * 100)} %)`).join(", ") }));
    this.drawBarsOf(Float32Array.from({ length: count }, (_, i) => mean(attention, i, count)), order, "taken from it, × uniform:");
  }
}

function mean(attention, column, count) {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += attention[i * count + column];
  return sum;
}

function readersOf(entry, bytes) { return readers[entry.kind](entry, bytes); }

function joined(maps) {
  if (maps.length === 1) return maps[0].values;
  const out = new Float32Array(maps.reduce((sum, { values }) => sum + values.length, 0));
  maps.reduce((at, { values }) => (out.set(values, at), at + values.length), 0);
  return out;
}

function swatch(colour) {
  const square = make("i", { className: "swatch" });
  if (colour) square.style.background = `rgb(${colour.join(",")})`;
  return square;
}

function named([name, colour]) {
  return make("span", { className: "named" }, swatch(colour), name);
}

// The picture, classes and a map over it, and the marks of the queries.
class Stage {
  constructor(panel) {
    this.panel = panel;
    this.photo = make("img", { alt: "", draggable: false });
    this.classes = make("canvas", { className: "classes" });
    this.map = make("canvas", { className: "map" });
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.cover = make("div", { className: "cover" }, this.map, this.lines);
    this.marks = { at: make("div", { className: "mark at" }), pin: make("div", { className: "mark pin" }) };
    this.tag = make("div", { className: "tag" });
    this.frame = make("div", { className: "frame", tabIndex: 0, role: "application", ariaRoleDescription: "attention map" },
      make("div", { className: "clip" }, this.photo, this.classes, this.cover), this.marks.at, this.marks.pin, this.tag);
    this.caption = make("figcaption");
    this.element = make("figure", { className: "stage" }, this.frame, this.caption);
    panel.page.listen(this.frame, panel);
  }

  draw(state, map, scale, isPin, compared) {
    const { panel } = this, { shot, image } = panel, [height, width] = told.images[image].size;
    if (this.image !== image) {
      this.image = image;
      this.photo.src = `data:image/jpeg;base64,${document.getElementById(`photo-${image}`).textContent}`;
      this.element.style.setProperty("--aspect", width / height);
      this.cover.style.width = `${shot.reach[1] * 100}%`;
      this.cover.style.height = `${shot.reach[0] * 100}%`;
      this.photo.classList.toggle("coarse", width < 300);
      this.painted = null;
    }
    const base = state.base === "truth" && !panel.classes.truth ? "photo" : state.base;
    if (base !== "photo" && this.painted !== base) {
      paintClasses(this.classes, panel.classes[base], shot.shown, shot.colours, shot.ignore);
      this.painted = base;
    }
    this.classes.style.opacity = base === "photo" ? 0 : state.classes;
    this.photo.style.filter = map ? `grayscale(${Math.min(1, state.opacity * 2)})` : "";
    this.map.hidden = !map;
    if (map) paint(this.map, map.values, map.size, scale, state.opacity);
    this.drawGrid();
    this.place(this.marks.at, state.at);
    this.place(this.marks.pin, state.pin);
    this.place(this.tag, isPin ? null : state.at);
    const found = panel.classAt(base === "truth" ? panel.classes.truth : panel.classes.prediction, state.at);
    if (found) this.tag.replaceChildren(named(found));
    this.tag.classList.toggle("left", state.at[0] > 0.6);
    this.tag.classList.toggle("above", state.at[1] > 0.7);
    const own = panel.classAt(panel.classes.prediction, isPin ? state.pin : state.at);
    this.caption.textContent = compared ? (isPin ? `● pinned: ${own[0]}` : `○ pointer: ${own[0]}`) : "";
    this.frame.setAttribute("aria-label", `${told.images[image].name}, ${panel.entry.title}. Arrow keys move the query, Enter pins it.`);
  }

  drawGrid() {
    const grid = this.panel.reader.grid?.(this.panel.view);
    this.lines.setAttribute("viewBox", "0 0 1 1");
    this.lines.setAttribute("preserveAspectRatio", "none");
    const path = grid ? [...grid.rows.map((y) => `M0 ${y}H1`), ...grid.columns.map((x) => `M${x} 0V1`)].join("") : "";
    this.lines.innerHTML = `<path d="${path}"/>`;
  }

  place(element, at) {
    element.hidden = !at;
    if (at) Object.assign(element.style, { left: `${at[0] * 100}%`, top: `${at[1] * 100}%` });
  }
}
