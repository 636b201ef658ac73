// What a position attends to, computed from the factors. A reader takes a layer's entry and the bytes, and gives
//   views: [[key, label], ...]   what can be looked at
//   row(view, y, x, chosen)      Float32Array over the grid of keys
//   times(view)                  what to multiply it with for the unit of the legend
//   moves, still(view)           whether the row depends on the query, and whether in one view it does not

// Row i of q k^T; four columns at a time, which keeps the sums in registers.
function product(q, k, i) {
  const out = new Float32Array(k.n), m = k.n, columns = q.columns;
  for (let j = 0; j < columns; j += 4) {
    const a = q.data[j * q.n + i];
    const b = j + 1 < columns ? q.data[(j + 1) * q.n + i] : 0;
    const c = j + 2 < columns ? q.data[(j + 2) * q.n + i] : 0;
    const d = j + 3 < columns ? q.data[(j + 3) * q.n + i] : 0;
    const at = Math.min(j + 1, columns - 1) * m, on = Math.min(j + 2, columns - 1) * m;
    const last = Math.min(j + 3, columns - 1) * m, first = j * m, data = k.data;
    for (let p = 0; p < m; p++) out[p] += a * data[first + p] + b * data[at + p] + c * data[on + p] + d * data[last + p];
  }
  return out;
}

function softmax(values) {
  let top = -Infinity, sum = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > top) top = values[i];
  for (let i = 0; i < values.length; i++) sum += values[i] = Math.exp(values[i] - top);
  for (let i = 0; i < values.length; i++) values[i] /= sum;
  return values;
}

const readers = {
  pairwise(entry, bytes) {
    const heads = entry.heads.map(({ q, k }) => ({ q: unpack(bytes, q), k: unpack(bytes, k) }));
    const weights = ({ q, k }, i) => (entry.softmax ? softmax(product(q, k, i)) : product(q, k, i));
    const many = heads.map((_, head) => [`head${head}`, `head ${head}`]);
    return {
      moves: true,
      views: heads.length > 1 ? [["mean", `mean of ${heads.length} heads`], ...many] : [["row", "row"]],
      weights(view, y, x) {
        const i = y * entry.size[1] + x;
        if (view.startsWith("head")) return weights(heads[+view.slice(4)], i);
        const sum = weights(heads[0], i);
        for (const head of heads.slice(1)) weights(head, i).forEach((value, p) => (sum[p] += value));
        return heads.length > 1 ? sum.map((value) => value / heads.length) : sum;
      },
      row(view, y, x) { return this.weights(view, y, x); },
      times: () => (entry.softmax ? entry.keys[0] * entry.keys[1] : 1),
    };
  },

  pyramid(entry, bytes) {
    const base = readers.pairwise(entry, bytes), [h, w] = entry.keys;
    let first = 0;
    const scales = entry.scales.map((side) => {
      const scale = { side, first, rows: cells(h, side), columns: cells(w, side) };
      first += side * side;
      return scale;
    });
    const spread = (out, weights, { side, first, rows, columns }) => {
      rows.forEach(([top, bottom], i) => columns.forEach(([left, right], j) => {
        const value = weights[first + i * side + j] / ((bottom - top) * (right - left));
        for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) out[y * w + x] += value;
      }));
    };
    return {
      ...base,
      views: [["all", "all cells"], ...scales.map(({ side }) => [`s${side}`, `${side} × ${side}`])],
      row(view, y, x) {
        const weights = base.weights("mean", y, x), out = new Float32Array(h * w);
        for (const scale of scales) if (view === "all" || view === `s${scale.side}`) spread(out, weights, scale);
        return out;
      },
      grid(view) {
        const scale = scales.find(({ side }) => view === `s${side}`);
        return scale && { rows: scale.rows.map((r) => r[0] / h), columns: scale.columns.map((c) => c[0] / w) };
      },
    };
  },

  additive(entry, bytes) {
    const a = unpack(bytes, entry.a).data, b = unpack(bytes, entry.b).data;
    return {
      moves: true,
      views: [["row", "row"]],
      row: (view, y, x) => b.map((value) => Math.max(0, a[y * entry.size[1] + x] + value) / b.length),
      times: () => 1,
    };
  },

  criss_cross(entry, bytes) {
    const hops = entry.hops.map(({ q, k }) => ({ q: turned(unpack(bytes, q)), k: turned(unpack(bytes, k)) }));
    const [h, w] = entry.size, single = hops.length === 1;
    const together = { 2: "both hops", 3: "all three hops" }[hops.length] ?? `all ${hops.length} hops`;
    const each = hops.map((_, hop) => [`hop${hop + 1}`, `hop ${hop + 1}`]);
    return {
      moves: true,
      views: single ? [["row", "row"]] : [["together", together], ...each],
      row(view, y, x) {
        const start = new Float32Array(h * w);
        start[y * w + x] = 1;
        if (view === "together") return hops.reduceRight((plane, hop) => carry(plane, hop, h, w), start);
        return carry(start, hops[single ? 0 : +view.slice(3) - 1], h, w);
      },
      times: (view) => (view === "together" ? h * w : h + w - 1),
      note: (view) => (view === "together" ? `where each point looks in the end, through ${together}` : entry.note),
    };
  },

  regions(entry, bytes) {
    const [q, k, soft] = [entry.q, entry.k, entry.soft].map((place) => unpack(bytes, place));
    const [h, w] = entry.size, count = soft.columns;
    const weights = (i) => softmax(product(q, k, i));
    let attended;
    return {
      moves: true,
      regions: count,
      views: [["row", "where it looks"], ["gathered", "gathered from"], ["attended", "who looks"]],
      shares: (y, x) => weights(y * w + x),
      // Those that are used most, in order.
      used(most) {
        const planes = (attended ??= everyone()), all = Array(count).keys(), n = h * w;
        const total = Float32Array.from(all, (r) => planes.subarray(r * n, (r + 1) * n).reduce((sum, share) => sum + share, 0));
        return sorted(total).slice(0, most).sort((a, b) => a - b);
      },
      row(view, y, x, chosen = null) {
        const here = view === "row" ? weights(y * w + x) : new Float32Array(count).fill(1);
        const planes = view === "attended" ? (attended ??= everyone()) : soft.data;
        const length = planes.length / count, out = new Float32Array(length);
        for (let r = 0; r < count; r++) {
          if (chosen && !chosen.has(r)) continue;
          for (let p = 0, at = r * length; p < length; p++) out[p] += here[r] * planes[at + p];
        }
        return out;
      },
      still: (view) => view !== "row",
      keys: (view) => (view === "attended" ? entry.size : entry.keys),
      note: (view) => ({ gathered: "what the regions are gathered from", attended: "how much each point looks at the regions" })[view],
      times: (view) => (view === "attended" ? 1 : soft.n),
      unit: (view) => (view === "attended" ? "weight" : entry.unit),
    };
    function everyone() {
      const planes = new Float32Array(count * h * w);
      for (let i = 0; i < h * w; i++) weights(i).forEach((weight, r) => (planes[r * h * w + i] = weight));
      return planes;
    }
  },

  point_wise(entry, bytes) {
    const q = turned(unpack(bytes, entry.q)), k = turned(unpack(bytes, entry.k));
    const [h, w] = entry.size, columns = q.columns, toward = entry.direction === "collect" ? 1 : -1;
    const place = new Int32Array(entry.mask ? entry.mask[0] * entry.mask[1] : h * w).fill(-1);
    unpack(bytes, entry.offsets).data.forEach((offset, i) => (place[offset] = i));
    const dot = (predictor, offset) => {
      let sum = 0;
      for (let j = 0, a = predictor * columns, b = offset * columns; j < columns; j++) sum += q.data[a + j] * k.data[b + j];
      return sum;
    };
    const offset = (v, u, y, x) => {
      if (!entry.mask) return toward === 1 ? v * w + u : y * w + x;
      const [mh, mw] = entry.mask;
      const dy = (v - y) * toward + ((mh - 1) >> 1), dx = (u - x) * toward + ((mw - 1) >> 1);
      return dy >= 0 && dy < mh && dx >= 0 && dx < mw ? place[dy * mw + dx] : -1;
    };
    return {
      moves: true,
      views: [["row", entry.direction]],
      row(view, y, x) {
        const out = new Float32Array(h * w);
        for (let v = 0, i = 0; v < h; v++) {
          for (let u = 0; u < w; u++, i++) {
            const at = offset(v, u, y, x);
            if (at >= 0) out[i] = dot(toward === 1 ? y * w + x : i, at);
          }
        }
        return entry.softmax ? softmax(out) : out;
      },
      times: () => (entry.softmax ? h * w : 1),
    };
  },

  gate(entry, bytes) {
    const planes = unpack(bytes, entry.planes), n = planes.n, mean = entry.mean && unpack(bytes, entry.mean).data;
    const each = entry.channels.map((channel, i) => [`plane${i}`, mean ? `channel ${channel}` : "gate"]);
    return {
      moves: false,
      views: mean ? [["mean", "mean"], ...each] : each,
      row(view) {
        if (view === "mean") return mean;
        const i = +view.slice(5);
        return planes.data.subarray(i * n, (i + 1) * n);
      },
      times: () => (entry.share ? n : 1),
    };
  },

  channel(entry, bytes) {
    const gate = unpack(bytes, entry.gate).data;
    const maps = new Map((entry.features ?? []).map((f) => [f.channel, { size: f.size, values: unpack(bytes, f.values).data }]));
    return { moves: false, views: [["row", "gate"]], gate, maps, order: sorted(gate), times: () => 1 };
  },

  channels(entry, bytes) {
    const logits = unpack(bytes, entry.logits), c = logits.n, attention = logits.data;
    for (let i = 0; i < c; i++) softmax(attention.subarray(i * c, (i + 1) * c));
    return { moves: false, views: [["row", "channels"]], attention, count: c, times: () => c };
  },
};

function sorted(values) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
}

// First and behind-the-last position of each cell of adaptive average pooling.
function cells(length, count) {
  const at = (i) => Math.floor((i * length) / count);
  return Array.from({ length: count }, (_, i) => [at(i), Math.ceil(((i + 1) * length) / count)]);
}

// Sum over r of plane[r] times what r attends to along its row and column; r itself counts once, in its row.
function carry(plane, { q, k }, h, w) {
  const out = new Float32Array(h * w), d = q.columns, weights = new Float32Array(h + w - 1), at = new Int32Array(h + w - 1);
  for (let r = 0; r < h * w; r++) {
    if (plane[r] === 0) continue;
    const x = r % w, top = r - x;
    let count = 0;
    for (let p = x; p < h * w; p += w) if (p !== r) at[count++] = p;
    for (let p = top; p < top + w; p++) at[count++] = p;
    for (let c = 0; c < count; c++) {
      let sum = 0;
      for (let j = 0, a = r * d, b = at[c] * d; j < d; j++) sum += q.data[a + j] * k.data[b + j];
      weights[c] = sum;
    }
    softmax(weights);
    for (let c = 0; c < count; c++) out[at[c]] += plane[r] * weights[c];
  }
  return out;
}
