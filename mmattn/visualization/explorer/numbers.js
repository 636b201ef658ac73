// What the page was given: words as JSON, numbers as deflated bytes.

const told = JSON.parse(document.getElementById("told").textContent);

function fromBase64(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflate(id) {
  const packed = new Blob([fromBase64(document.getElementById(id).textContent)]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Columns of n numbers, one column after the other. Low bytes of all codes come first, then the next higher ones.
function unpack(bytes, { at, n, planes, low, step }) {
  const total = n * low.length, data = new Float32Array(total);
  for (let column = 0, i = 0; column < low.length; column++) {
    for (const end = i + n; i < end; i++) {
      let code = low[column];
      for (let plane = 0; plane < planes; plane++) code += bytes[at + plane * total + i] * 2 ** (8 * plane);
      data[i] = code * step[column];
    }
  }
  return { n, columns: low.length, data };
}

// The same numbers, all columns of one row beside each other.
function turned({ n, columns, data }) {
  const out = new Float32Array(data.length);
  for (let j = 0; j < columns; j++) for (let i = 0; i < n; i++) out[i * columns + j] = data[j * n + i];
  return { n, columns, data: out };
}
