// Small plots: the last values of one figure as a line, and the newest in words.

const SVG = "http://www.w3.org/2000/svg";
const KEPT = 60;
const WIDTH = 100;
const HEIGHT = 30;

export class Plot {
  /** `show` says a value in words; `top` is the least upper end of the scale. */
  constructor(figure, { show, top }) {
    this.values = [];
    this.show = show;
    this.top = top;
    this.name = figure.querySelector("figcaption").textContent;
    this.output = figure.querySelector("b");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.line = this.#path("drawn");
    this.#path("ground").setAttribute("d", `M0 ${HEIGHT}H${WIDTH}`);
    figure.append(this.svg);
    this.#draw();
  }

  add(value) {
    if (value == null || !Number.isFinite(value)) return;
    this.values.push(value);
    if (this.values.length > KEPT) this.values.shift();
    this.#draw();
  }

  clear() {
    this.values = [];
    this.#draw();
  }

  #path(kind) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    this.svg.append(path);
    return path;
  }

  #draw() {
    const top = Math.max(this.top, ...this.values);
    const step = WIDTH / (KEPT - 1);
    const first = WIDTH - (this.values.length - 1) * step;
    const points = this.values.map((value, at) => `${(first + at * step).toFixed(1)} ${(HEIGHT * (1 - value / top)).toFixed(1)}`);
    if (points.length === 1) points.unshift(`${(WIDTH - step).toFixed(1)} ${points[0].split(" ")[1]}`);
    this.line.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    const newest = this.values.at(-1);
    const said = newest == null ? "–" : this.show(newest);
    this.output.textContent = said;
    const greatest = this.show(Math.max(...this.values));
    this.svg.setAttribute("aria-label", newest == null
      ? `${this.name}: nothing yet`
      : `${this.name}: ${said} now, at most ${greatest} in the last ${this.values.length}`);
  }
}
