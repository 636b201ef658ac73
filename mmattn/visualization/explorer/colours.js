// Values as colours: the same maps, and the same ends of the scale, as in the figures.

// Where the colours end at the least, in uniform shares, so that a map that looks everywhere alike stays dark.
const LEAST = (log) => 4 * 2.5 ** log;
const MAPS = Object.fromEntries(Object.entries(told.maps).map(([name, text]) => [name, fromBase64(text)]));

function percentile(values, part) {
  const ordered = Float32Array.from(values).sort(), at = ((ordered.length - 1) * part) / 100, low = Math.floor(at);
  return ordered[low] + (ordered[Math.min(low + 1, ordered.length - 1)] - ordered[low]) * (at - low);
}

// From 0, from the least of a gate, or on both sides of 0. `decades` of weights are spread out, 0 for none.
function scaleOf(values, unit, clip, decades) {
  let least = Infinity, most = -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  const signed = least < 0, share = unit.endsWith("uniform");
  const log = signed || unit === "gate" || unit === "feature" ? 0 : decades;
  const positive = signed ? values.map(Math.abs) : values.filter((value) => value > 0);
  const end = positive.length ? percentile(positive, clip) : 0;
  const even = unit === "gate" && most - least < 1e-6; // such as a mask that lets everything pass
  const low = signed ? -end : unit === "gate" && !even ? least : 0;
  const high = Math.max(end, signed ? 1e-12 : share ? LEAST(log) : even ? 1 : low + 1e-6);
  const bend = 10 ** log - 1, whole = Math.log1p(bend);
  const bent = (t) => (log > 0 ? Math.log1p(t * bend) / whole : t);
  const straight = (s) => (log > 0 ? Math.expm1(s * whole) / bend : s);
  return {
    low, high, least, most, signed,
    table: signed ? MAPS.both : MAPS.up,
    // 0 to 1 along the colours
    place(value) {
      if (signed) return 0.5 + 0.5 * Math.sign(value) * bent(Math.min(1, Math.abs(value) / high));
      return bent(Math.min(1, Math.max(0, (value - low) / (high - low))));
    },
    value: (s) => (signed ? Math.sign(s - 0.5) * straight(Math.abs(2 * s - 1)) * high : low + straight(s) * (high - low)),
    strength: (s) => (signed ? Math.abs(2 * s - 1) : s),
  };
}

// What is weak lets the picture through.
function paint(canvas, values, [h, w], scale, opacity) {
  [canvas.width, canvas.height] = [w, h];
  const pixels = new ImageData(w, h), { data } = pixels;
  for (let i = 0; i < w * h; i++) {
    const s = scale.place(values[i]), colour = 3 * Math.round(s * 255);
    data[4 * i] = scale.table[colour];
    data[4 * i + 1] = scale.table[colour + 1];
    data[4 * i + 2] = scale.table[colour + 2];
    data[4 * i + 3] = 255 * opacity * (0.26 + 0.74 * Math.sqrt(scale.strength(s)));
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function paintClasses(canvas, classes, [h, w], colours, ignore) {
  [canvas.width, canvas.height] = [w, h];
  const pixels = new ImageData(w, h), words = new Uint32Array(pixels.data.buffer);
  const table = colours.map(([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
  for (let i = 0; i < words.length; i++) words[i] = classes[i] === ignore ? 0 : table[classes[i]] ?? 0;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function written(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size < 0.001 ? value.toExponential(1).replace("e-", "e−").replace("-", "−") : String(+value.toPrecision(3)).replace("-", "−");
}
