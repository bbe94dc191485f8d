// The page: moving, opening, searching, and telling about what is selected. Text of the model is only ever textContent.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("canvas"), small = $("map");
  const open = new Set();
  const readings = Object.keys(data.readings);
  const state = { scene: null, view: { x: 0, y: 0, k: 1 }, selected: null, hovered: null };
  const view = state.view;
  let reading = readings[0], isAsked = false;
  const canOpen = (box) => (box.bodies || []).some(([, name]) => data.bodies[name]);
  const painter = new Painter(canvas, small, typeOf, canOpen);
  const swatch = (tone) => `background:${painter.colors[tone]};border-color:${painter.colors[`${tone}-line`]}`;

  // ---- layout ----

  function build(drawing, path, title, within) {
    const layout = arrange(drawing, (text, isBold) => painter.textWidth(text, isBold), (box, i) => {
      if (!open.has(`${path}/${i}`)) return [];
      return (box.bodies || []).filter(([, name]) => data.bodies[name])
        .map(([label, name]) => build(data.bodies[name], `${path}/${i}/${label}`, name, within || box.role));
    });
    layout.boxes.forEach((b, i) => {
      b.path = `${path}/${i}`;
      b.layout = layout;
      b.tone = !b.box.op ? "plain" : within || b.box.role;  // what is in a gradient is gradient
    });
    for (const b of layout.boxes) {
      const given = Object.fromEntries([...(b.box.reads || []), ...(b.box.writes || [])].filter(([formal]) => formal));
      for (const inner of b.inner) Object.assign(inner, { given, outer: layout });
    }
    return Object.assign(layout, { path, title });
  }

  function rebuild() { state.scene = build(data.readings[reading], reading, reading, ""); draw(); }

  /** Every box that is shown, with the offset of its drawing. */
  function* everyBox(layout = state.scene, x = 0, y = 0) {
    for (const b of layout.boxes) {
      yield [b, x, y];
      for (const inner of b.inner) yield* everyBox(inner, x + inner.x, y + inner.y);
    }
  }

  const find = (path) => { for (const entry of everyBox()) if (entry[0].path === path) return entry; return null; };
  /** The type of a value; of an operand of a function, where calls differ, the type that this call gives it. */
  function typeOf(layout, name) {
    const known = (data.types[layout.title] || {})[name] || layout.drawing.tensors[name];
    return known || (layout.given && layout.given[name] ? typeOf(layout.outer, layout.given[name]) : "");
  }

  function draw() {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => { isAsked = false; painter.paint(state); });
  }

  // ---- moving ----

  function zoomAt(x, y, factor) {
    const k = Math.min(Math.max(view.k * factor, 0.02), 4);
    Object.assign(view, { k, x: x - ((x - view.x) * k) / view.k, y: y - ((y - view.y) * k) / view.k });
    draw();
  }

  function fit() {
    const w = canvas.clientWidth, h = canvas.clientHeight, top = 92;
    const k = Math.min((w - 60) / state.scene.w, (h - top - 60) / state.scene.h, 1.2);
    Object.assign(view, { k, x: (w - state.scene.w * k) / 2, y: top + Math.max((h - top - 60 - state.scene.h * k) / 2, 0) });
    draw();
  }

  /** Show the whole width at a size that can be read, from the top. */
  function start() {
    const w = canvas.clientWidth;
    fit();
    if (view.k < 0.5) {
      const k = Math.min(Math.max((w - 120) / state.scene.w, 0.5), 0.85);
      Object.assign(view, { k, x: Math.max((w - state.scene.w * k) / 2, 40), y: 112 });
    }
    draw();
  }

  function goTo(path) {
    const entry = find(path);
    if (!entry) return;
    const [b, ox, oy] = entry;
    const k = Math.max(view.k, 0.7);
    Object.assign(view, { k, x: canvas.clientWidth / 2 - (ox + b.x + b.w / 2) * k, y: canvas.clientHeight / 2 - (oy + b.y + Math.min(b.h, 200) / 2) * k });
    select(b);
  }

  function hit(x, y, layout = state.scene) {
    const px = (x - view.x) / view.k, py = (y - view.y) / view.k;
    let found = null;
    for (const [b, ox, oy] of everyBox(layout)) {
      if (px >= ox + b.x && px <= ox + b.x + b.w && py >= oy + b.y && py <= oy + b.y + b.h) found = [b, px - ox - b.x, py - oy - b.y];
    }
    return found;
  }

  const pointers = new Map();
  let moved = 0, spread = 0;
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    pointers.set(e.pointerId, [e.clientX, e.clientY]);
    moved = 0;
    spread = 0;
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (e) => {
    const last = pointers.get(e.pointerId);
    if (!last) {
      const found = hit(e.clientX, e.clientY);
      const now = found ? found[0] : null;
      canvas.classList.toggle("over", Boolean(now));
      if (now !== state.hovered) { state.hovered = now; draw(); }
      return;
    }
    moved += Math.abs(e.clientX - last[0]) + Math.abs(e.clientY - last[1]);
    if (pointers.size === 1) { view.x += e.clientX - last[0]; view.y += e.clientY - last[1]; }
    pointers.set(e.pointerId, [e.clientX, e.clientY]);
    if (pointers.size === 2) {
      const [[ax, ay], [bx, by]] = [...pointers.values()];
      const now = Math.hypot(ax - bx, ay - by);
      if (spread) zoomAt((ax + bx) / 2, (ay + by) / 2, now / spread);
      spread = now;
    }
    draw();
  });
  const release = (e) => {
    pointers.delete(e.pointerId);
    spread = 0;
    if (!pointers.size) canvas.classList.remove("moving");
  };
  canvas.addEventListener("pointerup", (e) => {
    release(e);
    if (moved > 4) return;
    const found = hit(e.clientX, e.clientY);
    if (!found) return select(null);
    const [b, dx, dy] = found;
    if (canOpen(b.box) && dx > b.w - 20 && dy < 20) return toggle(b.path);
    select(b);
  });
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", (e) => {
    const found = hit(e.clientX, e.clientY);
    if (found && canOpen(found[0].box)) toggle(found[0].path);
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const step = e.deltaMode === 1 ? 16 : 1;
    if (e.shiftKey) { view.x -= (e.deltaX + e.deltaY) * step; draw(); } else zoomAt(e.clientX, e.clientY, Math.exp(-e.deltaY * step * (e.ctrlKey ? 0.01 : 0.0016)));
  }, { passive: false });
  const moveByMap = (e) => {
    const box = small.getBoundingClientRect(), place = painter.mapPlace(state.scene);
    const x = (e.clientX - box.left - place.x) / place.k, y = (e.clientY - box.top - place.y) / place.k;
    view.x = canvas.clientWidth / 2 - x * view.k;
    view.y = canvas.clientHeight / 2 - y * view.k;
    draw();
  };
  small.addEventListener("pointerdown", (e) => { small.setPointerCapture(e.pointerId); moveByMap(e); });
  small.addEventListener("pointermove", (e) => { if (e.buttons) moveByMap(e); });

  // ---- opening and selecting ----

  function toggle(path) {
    const before = find(path);
    if (open.has(path)) { for (const p of [...open]) if (p === path || p.startsWith(`${path}/`)) open.delete(p); } else open.add(path);
    const old = before && [before[1] + before[0].x + before[0].w / 2, before[2] + before[0].y];
    const chosen = state.selected && state.selected.path;
    rebuild();
    const after = find(path);
    if (old && after) {  // what was clicked stays under the pointer
      view.x -= (after[1] + after[0].x + after[0].w / 2 - old[0]) * view.k;
      view.y -= (after[2] + after[0].y - old[1]) * view.k;
    }
    const again = chosen && find(chosen);
    select(again ? again[0] : null);
  }

  function toggleAll() {
    const paths = state.scene.boxes.filter((b) => canOpen(b.box)).map((b) => b.path);
    const isOpen = paths.some((p) => open.has(p));
    if (isOpen) open.clear(); else paths.forEach((p) => open.add(p));
    select(null);
    rebuild();
    start();
    $("open").textContent = isOpen ? "Open all" : "Close all";
  }

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function select(b) {
    state.selected = b;
    const panel = $("panel");
    panel.hidden = !b;
    panel.replaceChildren();
    if (b) describe(panel, b);
    draw();
  }

  function describe(panel, b) {
    const { box, layout } = b;
    const close = element("button", "×", { class: "close", "aria-label": "Close" });
    close.onclick = () => select(null);
    panel.append(close, element("h2", box.op || box.name));
    const role = element("span", box.role, { class: "role" });
    role.style.cssText = swatch(b.tone);
    panel.append(role);
    if (box.domain) panel.append(element("span", box.domain, { class: "role" }));
    if (box.op && box.name) panel.append(element("div", box.name, { class: "name" }));
    for (const [label, name] of box.bodies || []) {
      if (!data.bodies[name]) continue;
      const button = element("button", open.has(b.path) ? "Close" : `Open ${label === "body" ? "its body" : label}`, { class: "open" });
      button.onclick = () => toggle(b.path);
      panel.append(button);
    }
    section(panel, "Attributes", Object.entries(box.attributes || {}).map(([key, value]) => [key, value]));
    operands(panel, "Inputs", box.reads, b);
    operands(panel, "Outputs", box.writes, b);
    if (box.cost) section(panel, "Work", [["multiply-adds", box.cost[0].toLocaleString("en")], ["operations", box.cost[1].toLocaleString("en")]]);
    if (box.op && !box.domain) {
      const link = element("a", "Definition of the operator", { href: `https://onnx.ai/onnx/operators/onnx__${box.op}.html`, target: "_blank", rel: "noopener" });
      const line = element("p");
      line.append(link);
      panel.append(line);
    }
    panel.scrollTop = 0;
  }

  function section(panel, title, pairs) {
    if (!pairs.length) return;
    panel.append(element("h3", title));
    const list = element("dl");
    for (const [key, value] of pairs) list.append(element("dt", key), element("dd", value));
    panel.append(list);
  }

  function operands(panel, title, pairs, b) {
    if (!pairs || !pairs.length) return;
    panel.append(element("h3", title));
    const list = element("dl");
    for (const [formal, name] of pairs) {
      const item = element("dd");
      const ends = b.layout.boxes.filter((o) => o !== b && ((title === "Inputs" ? o.box.writes : o.box.reads) || []).some(([, n]) => n === name));
      if (title === "Inputs" && ends.length) {
        const link = element("a", name, { tabindex: "0", role: "button" });
        link.onclick = link.onkeydown = (e) => { if (!e.key || e.key === "Enter") goTo(ends[0].path); };
        item.append(link);
      } else item.append(element("span", name));
      const type = typeOf(b.layout, name), held = b.layout.drawing.tensors[name];
      if (held || type) item.append(element("small", held || type));
      if (title === "Outputs") {
        for (const end of ends) {
          const line = element("small"), link = element("a", `→ ${end.box.op || end.box.role} ${end.box.label || end.box.name}`, { tabindex: "0", role: "button" });
          link.onclick = link.onkeydown = (e) => { if (!e.key || e.key === "Enter") goTo(end.path); };
          line.append(link);
          item.append(line);
        }
      }
      list.append(element("dt", formal || "·"), item);
    }
    panel.append(list);
  }

  // ---- search ----

  const field = $("search"), results = $("results");
  let matches = [], now = 0;
  function search() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    matches = [];
    if (words.length) {
      for (const [b] of everyBox()) {
        const names = [...(b.box.reads || []), ...(b.box.writes || [])].map(([, n]) => n).join(" ");
        const text = `${b.box.op} ${b.box.name} ${b.box.label || ""} ${names}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
        const head = `${b.box.op} ${b.box.name}`.toLowerCase();
        matches.push([words.every((word) => head.includes(word)) ? 0 : 1, b]);
      }
      matches.sort((p, q) => p[0] - q[0]);
    }
    now = 0;
    list();
  }
  function list() {
    results.hidden = !matches.length;
    results.replaceChildren(...matches.slice(0, 40).map(([, b], i) => {
      const line = element("li", undefined, { class: i === now ? "now" : "" });
      const mark = element("i");
      mark.style.cssText = swatch(b.tone);
      line.append(mark, element("b", b.box.op || b.box.role), element("span", b.box.name));
      line.onmousedown = (e) => { e.preventDefault(); now = i; choose(); };
      return line;
    }));
    if (results.children[now]) results.children[now].scrollIntoView({ block: "nearest" });
  }
  function choose() { if (matches[now]) { goTo(matches[now][1].path); results.hidden = true; } }
  field.addEventListener("input", search);
  field.addEventListener("focus", search);
  field.addEventListener("blur", () => { results.hidden = true; });
  field.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      const n = Math.min(matches.length, 40);
      if (n) now = (now + (e.key === "ArrowDown" ? 1 : n - 1)) % n;
      list();
    } else if (e.key === "Enter") choose();
    else if (e.key === "Escape") { field.value = ""; field.blur(); canvas.focus(); }
    e.stopPropagation();
  });

  // ---- the rest of the page ----

  $("title").textContent = data.name.split(/[\\/]/).pop();
  $("title").title = data.name;
  for (const name of readings) {
    const title = { training: "Training step", inference: "Inference" }[name];
    const button = element("button", title, { role: "tab", id: `reading-${name}` });
    button.onclick = () => { reading = name; state.hovered = null; select(null); rebuild(); start(); mark(); };
    $("readings").append(button);
  }
  $("readings").hidden = readings.length < 2;
  function mark() {
    for (const name of readings) $(`reading-${name}`).setAttribute("aria-selected", String(name === reading));
    const tones = reading === "training" ? ["forward", "gradient", "update"] : ["forward"];
    const entries = [...tones.map((tone) => [tone, tone]), ["plain", "input or output"]].map(([tone, word]) => {
      const entry = element("span"), patch = element("i");
      patch.style.cssText = swatch(tone);
      entry.append(patch, word);
      return entry;
    });
    const n = state.scene.boxes.filter((b) => b.box.op).length;
    const facts = [`${n.toLocaleString("en")} nodes`, ...Object.entries(data.facts).map(([key, value]) => `${key} ${value}`)];
    $("legend").replaceChildren(...entries, element("span", facts.join("  ·  ")));
  }
  const zoom = (factor) => () => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, factor);
  const keys = {
    "/": () => field.focus(), f: fit, e: toggleAll, "+": zoom(1.3), "=": zoom(1.3), "-": zoom(1 / 1.3),
    Escape: () => select(null), ArrowLeft: () => { view.x += 80; }, ArrowRight: () => { view.x -= 80; },
    ArrowUp: () => { view.y += 80; }, ArrowDown: () => { view.y -= 80; },
    Enter: () => { if (state.selected && canOpen(state.selected.box)) toggle(state.selected.path); },
  };
  $("plus").onclick = keys["+"];
  $("minus").onclick = keys["-"];
  $("fit").onclick = fit;
  $("open").onclick = toggleAll;
  $("open").hidden = !Object.keys(data.bodies).length;
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || !keys[e.key] || e.target.tagName === "BUTTON") return;
    e.preventDefault();
    keys[e.key]();
    draw();
  });
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { painter.readColors(); mark(); draw(); });

  rebuild();
  mark();
  start();
  window.renom = { goTo, toggle, toggleAll, fit, zoomAt, everyBox, state };  // for whoever wants to steer the page
})();
