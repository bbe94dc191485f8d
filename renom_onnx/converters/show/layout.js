"use strict";
// Coordinates for a drawing whose boxes have a row, a lane and an order in it. No part of this knows the page.

const SIZE = {
  box: 46, bare: 32, pill: 26, least: 92, most: 216, gapX: 26, gapY: 44, lane: 132, point: 16, pad: 22, head: 50, foot: 20,
};

const UPDATE = 2;
const N_SWEEPS = 40;
const CENTER = 0.12;

/** Solve min sum weight (x - wanted)^2 with x[i + 1] - x[i] >= apart[i]: pool adjacent violators. */
function settle(wanted, weights, apart) {
  const offsets = [0];
  for (let i = 1; i < wanted.length; i++) offsets.push(offsets[i - 1] + apart[i - 1]);
  const blocks = [];
  wanted.forEach((w, i) => {
    let block = { value: w - offsets[i], weight: weights[i], n: 1 };
    while (blocks.length && blocks[blocks.length - 1].value >= block.value) {
      const last = blocks.pop();
      const weight = last.weight + block.weight;
      block = { value: (last.value * last.weight + block.value * block.weight) / weight, weight, n: last.n + block.n };
    }
    blocks.push(block);
  });
  const found = [];
  for (const block of blocks) for (let k = 0; k < block.n; k++) found.push(block.value + offsets[found.length]);
  return found;
}

/** Return the centers of the items of one lane, from the links between items of neighbouring rows. */
function centers(layers, links, widthOf) {
  const at = new Map();
  for (const [, items] of layers) {
    let x = 0;
    for (const item of items) { at.set(item, x + widthOf(item) / 2); x += widthOf(item) + SIZE.gapX; }
    for (const item of items) at.set(item, at.get(item) - (x - SIZE.gapX) / 2);
  }
  const apart = layers.map(([, items]) =>
    items.slice(1).map((item, i) => (widthOf(items[i]) + widthOf(item)) / 2 + SIZE.gapX));
  let softness = Infinity;  // as it falls, distances count instead of their squares, and lines become straight
  const place = (k) => {
    const items = layers[k][1];
    const wanted = [], weights = [];
    for (const item of items) {
      let sum = 0, weight = 0;
      for (const [other, strength] of links.get(item) || []) {
        const pull = strength / (1 + Math.abs(at.get(other) - at.get(item)) / softness);
        sum += pull * at.get(other);
        weight += pull;
      }
      weight += CENTER / (1 + Math.abs(at.get(item)) / softness);  // towards 0, so that lanes stay upright
      wanted.push(weight ? sum / weight : at.get(item));
      weights.push(weight || 0.05);
    }
    settle(wanted, weights, apart[k]).forEach((x, i) => at.set(items[i], x));
  };
  for (let sweep = 0; sweep < N_SWEEPS; sweep++) {
    if (sweep > 5) softness = 1;
    for (let k = 1; k < layers.length; k++) place(k);
    for (let k = layers.length - 2; k >= 0; k--) place(k);
  }
  return at;
}

/** Return the centers of items that stand at the left, as near as they can to what they read. */
function fromTheLeft(layers, widthOf) {
  const at = new Map();
  for (const [, items] of layers) {
    let x = 0;
    for (const item of items) { at.set(item, x + widthOf(item) / 2); x += widthOf(item) + SIZE.gapX; }
  }
  return at;
}

/** Return who is linked with whom in a lane; long arrows want to be straight. */
function linksOf(drawing, lane) {
  const links = new Map();
  const add = (a, b, strength) => { if (!links.has(a)) links.set(a, []); links.get(a).push([b, strength]); };
  for (const [a, b, , , points] of drawing.arrows) {
    const [p, q] = [drawing.boxes[a], drawing.boxes[b]];
    if (p.lane !== lane || q.lane !== lane || p.row === q.row) continue;
    if (Math.abs(p.row - q.row) > 1 && !points.length) continue;
    const chain = p.row < q.row ? [a, ...points, b] : [a, ...points, b].reverse();
    for (let i = 1; i < chain.length; i++) {
      const n = (chain[i - 1] < 0) + (chain[i] < 0);
      const strength = [1, 2, 8][n];
      add(chain[i - 1], chain[i], strength);
      add(chain[i], chain[i - 1], strength);
    }
  }
  return links;
}

/** Return boxes with x, y, w, h and arrows with points; `inside(box, index)` gives the layout of what is open in it. */
function arrange(drawing, textWidth, inside) {
  const boxes = drawing.boxes.map((box, i) => {
    const found = { box, inner: inside(box, i) };
    const wanted = Math.max(textWidth(box.op || box.name, Boolean(box.op)), textWidth(box.label || "", false)) + 30;
    found.w = Math.min(Math.max(wanted, box.op ? SIZE.least : 44), SIZE.most);
    found.h = !box.op ? SIZE.pill : box.label ? SIZE.box : SIZE.bare;
    if (found.inner.length) {
      found.w = Math.max(found.w, ...found.inner.map((l) => l.w + 2 * SIZE.pad));
      found.h = SIZE.head + found.inner.reduce((h, l) => h + l.h + SIZE.foot, 0);
    }
    return found;
  });
  const heights = new Map();
  boxes.forEach(({ box, h }) => heights.set(box.row, Math.max(h, heights.get(box.row) || 0)));
  const rows = [...new Set(drawing.lanes.flatMap((layers) => layers.map(([row]) => row)))].sort((a, b) => a - b);
  const middle = new Map();
  let y = 0;
  for (const row of rows) {
    const h = heights.get(row) || SIZE.bare;
    middle.set(row, y + h / 2);
    y += h + SIZE.gapY;
  }
  const points = new Map();
  const lanes = [];
  let left = 0;
  drawing.lanes.forEach((layers, lane) => {
    if (!layers.length) return;
    const width = (item) => (item < 0 ? SIZE.point : boxes[item].w);
    const links = linksOf(drawing, lane);
    const n = layers.reduce((sum, [, items]) => sum + items.length, 0);
    const at = lane === UPDATE && 2 * links.size < n ? fromTheLeft(layers, width) : centers(layers, links, width);
    let low = Infinity, high = -Infinity;
    for (const [item, x] of at) { low = Math.min(low, x - width(item) / 2); high = Math.max(high, x + width(item) / 2); }
    for (const [row, items] of layers) {
      for (const item of items) {
        const x = at.get(item) - low + left;
        if (item < 0) points.set(`${lane}:${item}`, [x, middle.get(row)]);
        else Object.assign(boxes[item], { x: x - boxes[item].w / 2, y: middle.get(row) - boxes[item].h / 2 });
      }
    }
    lanes.push({ lane, x: left, w: high - low });
    left += high - low + SIZE.lane;
  });
  for (const found of boxes) {
    let top = found.y + SIZE.head;
    for (const inner of found.inner) {
      inner.x = found.x + (found.w - inner.w) / 2;
      inner.y = top;
      top += inner.h + SIZE.foot;
    }
  }
  const first = new Set(drawing.lanes.flatMap((layers) => layers.map(([, items]) => boxes[items[0]])));
  const arrows = drawing.arrows.map(([a, b, value, kind, waypoints]) => {
    const between = waypoints.map((k) => points.get(`${boxes[a].box.lane}:${k}`));
    return route(boxes[a], boxes[b], value, kind, between, first.has(boxes[b]));
  });
  return { drawing, boxes, arrows, lanes, w: Math.max(left - SIZE.lane, 60), h: Math.max(y - SIZE.gapY, 30), x: 0, y: 0 };
}

/** Return an arrow with its points; `bends` says of each piece how it leaves and arrives: | or -. */
function route(a, b, value, kind, between, isFirst) {
  const isAside = a.box.lane !== b.box.lane || a.box.row === b.box.row;
  const right = b.x >= a.x, down = b.box.row > a.box.row;
  let points, bends;
  if (isAside && b.box.lane === UPDATE && !isFirst) {  // over the boxes before it
    const level = b.y - 14, x = b.x + b.w / 2;
    points = [[a.x + a.w, a.y + a.h / 2], [Math.min(a.x + a.w + 70, x - 12), level], [x - 12, level], [x, b.y]];
    bends = ["--", "--", "-|"];
  } else if (isAside) {
    points = [[right ? a.x + a.w : a.x, a.y + a.h / 2], [right ? b.x : b.x + b.w, b.y + b.h / 2]];
    bends = ["--"];
  } else {
    points = [[a.x + a.w / 2, down ? a.y + a.h : a.y], ...between, [b.x + b.w / 2, down ? b.y : b.y + b.h]];
    bends = points.slice(1).map(() => "||");
  }
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const bounds = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  return { from: a, to: b, value, kind, points, bends, bounds };
}

if (typeof module !== "undefined") module.exports = { SIZE, settle, centers, linksOf, arrange };
