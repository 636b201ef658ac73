// Small pieces of the page: elements, sorted bars, a matrix.

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Build what is in a place anew, only when what it depends on has changed; what had the focus keeps it.
function settle(place, key, build) {
  const text = JSON.stringify(key);
  if (place.dataset.of === text) return;
  place.dataset.of = text;
  const at = [...place.querySelectorAll("button, select")].indexOf(document.activeElement);
  place.replaceChildren(...build());
  const buttons = [...place.querySelectorAll("button, select")];
  if (at >= 0) (buttons.find((button) => button.tabIndex === 0) ?? buttons[at])?.focus();
}

// Buttons of which one is chosen; arrow keys move between them.
function choice(label, options, chosen, choose) {
  const group = make("div", { className: "choice", role: "radiogroup", ariaLabel: label });
  options.forEach(([key, text], i) => {
    const button = make("button", { type: "button", role: "radio", textContent: text, tabIndex: key === chosen ? 0 : -1 });
    button.setAttribute("aria-checked", key === chosen);
    button.onclick = () => choose(key);
    button.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      choose(options[(i + by + options.length) % options.length][0]);
    };
    group.append(button);
  });
  return group;
}

function fitted(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 280;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, width];
}

// Values in falling order, one of them chosen. `at` gives the rank under a pointer.
function drawBars(canvas, values, order, chosen, height = 96) {
  const [context, width] = fitted(canvas, height), style = getComputedStyle(canvas);
  const most = Math.max(values[order[0]], 1e-12), least = Math.min(0, values[order[order.length - 1]]);
  const down = (value) => (height - 2) * (1 - (value - least) / (most - least)) + 1;
  context.fillStyle = style.getPropertyValue("--accent");
  context.beginPath();
  context.moveTo(0, down(0));
  order.forEach((channel, rank) => {
    context.lineTo((rank / order.length) * width, down(values[channel]));
    context.lineTo(((rank + 1) / order.length) * width, down(values[channel]));
  });
  context.lineTo(width, down(0));
  context.fill();
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  context.strokeStyle = style.getPropertyValue("--ink");
  context.setLineDash([4, 3]);
  context.beginPath();
  context.moveTo(0, down(mean));
  context.lineTo(width, down(mean));
  context.stroke();
  const rank = order.indexOf(chosen);
  context.setLineDash([]);
  context.fillStyle = style.getPropertyValue("--ink");
  context.fillRect((rank / order.length) * width, 0, Math.max(1.5, width / order.length), height);
}

// Cells of a (c, c) map in the order of `order`, as uniform shares, averaged where they outnumber the pixels.
function drawMatrix(canvas, attention, c, order, scale) {
  const side = Math.min(c, 512), sums = new Float32Array(side * side), counts = new Float32Array(side * side);
  for (let i = 0; i < c; i++) {
    const y = Math.floor((i * side) / c);
    for (let j = 0; j < c; j++) {
      const at = y * side + Math.floor((j * side) / c);
      sums[at] += attention[order[i] * c + order[j]] * c;
      counts[at]++;
    }
  }
  paint(canvas, sums.map((sum, i) => sum / counts[i]), [side, side], scale, 1);
  const context = canvas.getContext("2d"), pixels = context.getImageData(0, 0, side, side);
  for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = 255;
  context.putImageData(pixels, 0, 0);
}
