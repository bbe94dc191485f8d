// Painting a layout on a canvas, and small on the map. No part of this changes what is shown.

const COLORS = [
  "page", "ink", "soft", "faint", "line", "card", "again", "accent", "forward", "gradient", "update", "plain",
  "forward-line", "gradient-line", "update-line", "plain-line",
];
const LANES = ["forward", "gradient", "update"];
const MONO = `10px ui-monospace, Consolas, "DejaVu Sans Mono", monospace`;

class Painter {
  /** `typeOf(layout, name)` tells the type of a value, `canOpen(box)` whether something is in a box. */
  constructor(canvas, map, typeOf, canOpen) {
    Object.assign(this, { canvas, map, typeOf, canOpen, pen: canvas.getContext("2d"), mapPen: map.getContext("2d") });
    this.font = getComputedStyle(document.body).fontFamily;
    this.bold = `600 13px ${this.font}`;
    this.plain = `11px ${this.font}`;
    this.widths = new Map();
    this.fits = new Map();
    this.readColors();
  }

  readColors() {
    const style = getComputedStyle(document.documentElement);
    this.colors = Object.fromEntries(COLORS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  textWidth(text, isBold) {
    const key = (isBold ? "b" : "p") + text;
    if (!this.widths.has(key)) {
      this.pen.font = isBold ? this.bold : this.plain;
      this.widths.set(key, this.pen.measureText(text).width);
    }
    return this.widths.get(key);
  }

  /** Return the text, with its middle cut out where it is wider than this. */
  fitted(text, isBold, width) {
    const key = `${isBold}${Math.round(width)}${text}`;
    if (!this.fits.has(key)) {
      let cut = text;
      for (let n = text.length; n > 3 && this.textWidth(cut, isBold) > width; n--) {
        const half = Math.ceil(n / 2);
        cut = `${text.slice(0, half - 1)}…${text.slice(text.length - (n - half))}`;
      }
      this.fits.set(key, cut);
    }
    return this.fits.get(key);
  }

  /** Paint everything: `state` holds scene, view, selected and hovered. */
  paint(state) {
    this.state = state;
    const { canvas, pen } = this, { view, scene } = state;
    const ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = this.colors.page;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * view.x, ratio * view.y);
    this.paintLayout(scene, [-view.x / view.k, -view.y / view.k, (w - view.x) / view.k, (h - view.y) / view.k]);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paintLaneNames(scene);
    this.paintMap(scene);
  }

  paintLayout(layout, window) {
    const [x0, y0, x1, y1] = window, { selected, hovered } = this.state;
    const lit = [];
    for (const arrow of layout.arrows) {
      const [l, t, r, b] = arrow.bounds;
      if (r < x0 || l > x1 || b < y0 || t > y1) continue;
      if ([arrow.from, arrow.to].some((box) => box === selected || box === hovered)) lit.push(arrow);
      else if (arrow.kind !== "again" || arrow.from.box.role !== "update") this.paintArrow(arrow, false);
    }
    lit.forEach((arrow) => this.paintArrow(arrow, true));
    for (const b of layout.boxes) {
      if (b.x + b.w < x0 || b.x > x1 || b.y + b.h < y0 || b.y > y1) continue;
      this.paintBox(b);
      for (const inner of b.inner) {
        this.pen.save();
        this.pen.translate(inner.x, inner.y);
        this.paintLayout(inner, [x0 - inner.x, y0 - inner.y, x1 - inner.x, y1 - inner.y]);
        this.pen.restore();
      }
    }
    const told = new Set();
    if (this.state.view.k > 0.62) for (const arrow of layout.arrows) this.paintType(arrow, layout, told, window);
  }

  paintArrow({ points, bends, kind, to }, isLit) {
    const { pen, colors } = this, { k } = this.state.view;
    pen.strokeStyle = pen.fillStyle = isLit ? colors.accent : kind === "again" ? colors.again : colors[`${to.tone}-line`];
    pen.lineWidth = (isLit ? 2 : kind === "again" ? 0.9 : 1.3) / Math.max(Math.min(k, 1), 0.35);
    pen.globalAlpha = isLit ? 1 : kind === "again" ? 0.7 : 0.85;
    pen.beginPath();
    pen.moveTo(...points[0]);
    bends.forEach((bend, i) => {
      const [ax, ay] = points[i], [bx, by] = points[i + 1], mx = (ax + bx) / 2, my = (ay + by) / 2;
      if (bend === "-|") pen.quadraticCurveTo(bx, ay, bx, by);
      else if (bend === "--") pen.bezierCurveTo(mx, ay, mx, by, bx, by);
      else if (Math.abs(ax - bx) < 1) pen.lineTo(bx, by);
      else pen.bezierCurveTo(ax, my, bx, my, bx, by);
    });
    pen.stroke();
    if (k > 0.22) {
      const [x, y] = points[points.length - 1], [px, py] = points[points.length - 2];
      const isUpright = bends[bends.length - 1][1] === "|";
      const d = 6, dx = isUpright ? 0 : Math.sign(x - px), dy = isUpright ? Math.sign(y - py) : 0;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x - d * dx - (d / 1.7) * dy, y - d * dy - (d / 1.7) * dx);
      pen.lineTo(x - d * dx + (d / 1.7) * dy, y - d * dy + (d / 1.7) * dx);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  /** Write the sizes of a value once, where its first arrow leaves the box that writes it. */
  paintType({ from, value, bends, kind, points }, layout, told, [x0, y0, x1, y1]) {
    const { pen, colors } = this, [x, y] = points[0];
    if (bends[0] === "--" || kind === "again" || x < x0 || x > x1 || y < y0 - 20 || y > y1 + 20) return;
    if (from.box.lane !== 0 || told.has(value)) return;
    const text = this.typeOf(layout, value).split(" = ")[0];
    if (!text) return;
    told.add(value);
    const short = text.replace(/^\w+\[/, "").replace(/\]$/, "").replaceAll(", ", " × ");
    pen.font = MONO;
    pen.textAlign = "left";
    const width = pen.measureText(short).width, left = x + 6;
    pen.fillStyle = colors.page;
    pen.globalAlpha = 0.8;
    pen.fillRect(left - 2, y + 5, width + 4, 13);
    pen.globalAlpha = 1;
    pen.fillStyle = colors.soft;
    pen.fillText(short, left, y + 15);
  }

  rounded(x, y, w, h, r) {
    this.pen.beginPath();
    this.pen.roundRect(x, y, w, h, r);
  }

  paintBox(b) {
    const { pen, colors } = this, { view, selected, hovered } = this.state;
    const { box, tone } = b, isPill = !box.op, isOpen = b.inner.length > 0;
    this.rounded(b.x, b.y, b.w, b.h, isPill ? b.h / 2 : 8);
    pen.fillStyle = isOpen ? colors.card : view.k < 0.17 ? colors[`${tone}-line`] : colors[tone];
    pen.fill();
    pen.lineWidth = b === selected ? 2.6 : b === hovered ? 2 : 1.2;
    pen.strokeStyle = b === selected ? colors.accent : colors[`${tone}-line`];
    pen.stroke();
    if (isOpen) {
      this.rounded(b.x, b.y, b.w, SIZE.head - 10, [8, 8, 0, 0]);
      pen.fillStyle = colors[tone];
      pen.fill();
    }
    if (view.k < 0.17) return;
    const height = isPill ? SIZE.pill : box.label ? SIZE.box : SIZE.bare;
    const x = b.x + b.w / 2, top = isOpen ? b.y : b.y + (b.h - height) / 2;
    const label = view.k > 0.33 && box.label;
    pen.textAlign = "center";
    pen.fillStyle = colors.ink;
    pen.font = isPill ? this.plain : this.bold;
    pen.fillText(this.fitted(box.op || box.name, !isPill, b.w - 22), x, label ? top + 20 : top + height / 2 + 4.5);
    if (label) {
      pen.font = this.plain;
      pen.fillStyle = colors.soft;
      pen.fillText(this.fitted(box.label, false, b.w - 16), x, top + 36);
    }
    if (this.canOpen(box) && view.k > 0.33) {
      const cx = b.x + b.w - 10, cy = b.y + 10;
      pen.strokeStyle = colors[`${tone}-line`];
      pen.lineWidth = 1.4;
      pen.beginPath();
      pen.moveTo(cx - 3.5, cy);
      pen.lineTo(cx + 3.5, cy);
      if (!isOpen) {
        pen.moveTo(cx, cy - 3.5);
        pen.lineTo(cx, cy + 3.5);
      }
      pen.stroke();
    }
  }

  /** Write the names of the lanes above them, or at the top of the window. */
  paintLaneNames(scene) {
    const { pen, colors } = this, { view } = this.state;
    if (scene.lanes.length < 2) return;
    pen.font = `600 12px ${this.font}`;
    pen.textAlign = "center";
    for (const { lane, x, w } of scene.lanes) {
      const center = (x + w / 2) * view.k + view.x, above = view.y - 26 * Math.min(view.k, 1), y = Math.max(76, above);
      const text = LANES[lane][0].toUpperCase() + LANES[lane].slice(1), width = pen.measureText(text).width + 24;
      if (width > (w + SIZE.lane) * view.k) continue;
      this.rounded(center - width / 2, y - 16, width, 24, 12);
      pen.fillStyle = colors.page;
      pen.fill();
      if (y > above) {
        pen.strokeStyle = colors.line;
        pen.lineWidth = 1;
        pen.stroke();
      }
      pen.fillStyle = colors[`${LANES[lane]}-line`];
      pen.fillText(text, center, y);
    }
  }

  /** Return scale and margins of the map. */
  mapPlace(scene) {
    const w = this.map.clientWidth, h = this.map.clientHeight;
    const k = Math.min(w / (scene.w + 40), h / (scene.h + 40));
    return { k, x: (w - scene.w * k) / 2, y: (h - scene.h * k) / 2, w, h };
  }

  paintMap(scene) {
    const { map, mapPen: pen, canvas, colors } = this, { view } = this.state, place = this.mapPlace(scene), { k } = place;
    const ratio = devicePixelRatio || 1;
    if (!place.w) return;
    map.width = place.w * ratio;
    map.height = place.h * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const b of scene.boxes) {
      pen.fillStyle = colors[`${b.tone}-line`];
      pen.fillRect(place.x + b.x * k, place.y + b.y * k, Math.max(b.w * k, 1), Math.max(b.h * k, 1));
    }
    const x = place.x - (view.x / view.k) * k, y = place.y - (view.y / view.k) * k;
    pen.strokeStyle = colors.accent;
    pen.lineWidth = 1.5;
    const w = (canvas.clientWidth / view.k) * k, h = (canvas.clientHeight / view.k) * k;
    pen.strokeRect(Math.max(x, 1), Math.max(y, 1), Math.min(w, place.w - 2), Math.min(h, place.h - 2));
  }
}
