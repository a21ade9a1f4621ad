"use strict";
// Draws the curves of a run report with uPlot: one chart a quantity, the same runs and the same stretch of x in each.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const place = document.getElementById("charts");
  const tools = { x: "step", logX: false, logY: false, window: data.smoothing };
  const shown = data.runs.map(() => true);
  const DASHES = [[], [8, 4], [2, 4], [10, 4, 2, 4], [4, 4], [12, 3, 2, 3, 2, 3]];
  let charts = [];
  let zoom = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (run) => css(`--c${run.colour % 6}`);
  // A colour that comes again has another dash; so has each seed of one configuration.
  const dash = (run) => DASHES[(Math.floor(run.colour / 6) + run.dash) % DASHES.length];

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // --- numbers -------------------------------------------------------------------------------------------------------
  function short(value) {
    if (value === null || value === undefined || !isFinite(value)) return "–";
    const size = Math.abs(value);
    for (const [unit, letter] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= unit) return `${+(value / (letter === "k" ? 1e3 : unit)).toPrecision(6)}${letter}`;
    }
    return size !== 0 && size < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(5));
  }

  // Times are data in seconds and text in the largest unit that suits.
  function timeUnit() {
    const ends = data.runs.map((run) => (run.knots.time ? run.knots.time[run.knots.time.length - 1] : 0));
    const longest = Math.max(0, ...ends);
    return [[86400, "days"], [3600, "hours"], [60, "minutes"], [1, "s"]].find(([seconds]) => longest >= 2 * seconds) || [1, "s"];
  }

  function interpolate(x, from, to) {
    let low = 0;
    let high = from.length - 1;
    if (x >= from[high]) return to[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= x) low = middle;
      else high = middle;
    }
    const share = from[high] > from[low] ? (x - from[low]) / (from[high] - from[low]) : 0;
    return to[low] + share * (to[high] - to[low]);
  }

  function onAxis(run, steps) {
    if (tools.x === "step") return steps;
    const to = run.knots[tools.x];
    if (!to) return null;
    const unit = tools.x === "time" ? timeUnit()[0] : 1;
    return steps.map((step) => interpolate(step, run.knots.step, to) / unit);
  }

  function movingMean(values, window) {
    if (window <= 1) return values;
    const sums = [0];
    for (const value of values) sums.push(sums[sums.length - 1] + value);
    const before = (window - 1) >> 1;
    const after = window >> 1;
    return values.map((_, i) => {
      const begin = Math.max(i - before, 0);
      const end = Math.min(i + after + 1, values.length);
      return (sums[end] - sums[begin]) / (end - begin);
    });
  }

  // --- one curve as it is drawn -----------------------------------------------------------------------------------------
  function visible(x, y, error) {
    const kept = { x: [], y: [], error: [] };
    for (let i = 0; i < x.length; i++) {
      if ((tools.logX && x[i] <= 0) || (tools.logY && y[i] <= 0)) continue;
      if (kept.x.length && x[i] <= kept.x[kept.x.length - 1]) continue; // steps that share a place on a coarse axis
      kept.x.push(x[i]);
      kept.y.push(y[i]);
      kept.error.push(error ? error[i] : 0);
    }
    return kept;
  }

  function lines(chart, run, curve) {
    if (!curve) return null;
    const x = onAxis(run, curve.x);
    if (!x) return null;
    const raw = visible(x, curve.y, curve.error);
    if (!chart.smooth || tools.window <= 1) return { raw: null, main: raw };
    const steps = curve.mean_x || curve.x;
    const spacing = steps.length > 1 ? (steps[steps.length - 1] - steps[0]) / (steps.length - 1) : 1;
    const mean = movingMean(curve.mean_y || curve.y, Math.max(1, Math.round(tools.window / spacing)));
    return { raw, main: visible(onAxis(run, steps), mean) };
  }

  // --- charts ----------------------------------------------------------------------------------------------------------
  function build() {
    for (const chart of charts) chart.plot.destroy();
    charts = [];
    place.replaceChildren();
    // All places first: how wide one is depends on how many there are.
    const prepared = data.charts.map(prepare).filter((found) => found);
    for (const found of prepared) draw(found);
    zoomTo(zoom);
  }

  function axisLabel() {
    return tools.x === "time" ? `training time (${timeUnit()[1]})` : data.axes[tools.x];
  }

  function prepare(chart) {
    const drawn = data.runs.map((run, i) => lines(chart, run, chart.curves[i]));
    if (!drawn.some((found) => found && found.main.x.length)) return null;
    const unit = element("small", {}, chart.unit ? ` (${chart.unit})` : "");
    const holder = element("div", { class: "plot", role: "img", "aria-label": chart.title });
    const tip = element("div", { class: "tip", hidden: "" });
    holder.append(tip);
    place.append(element("div", { class: "chart" }, element("h3", {}, chart.title, unit), holder));
    return { chart, drawn, holder, tip };
  }

  function draw({ chart, drawn, holder, tip }) {
    const series = [{}];
    const tables = [];
    const runOf = [null];
    for (const part of ["raw", "main"]) {
      drawn.forEach((found, i) => {
        if (!found || !found[part]) return;
        const run = data.runs[i];
        series.push({
          stroke: colour(run),
          alpha: part === "raw" ? 0.28 : 1,
          width: part === "raw" ? 1 : 2,
          dash: part === "raw" ? [] : dash(run),
          spanGaps: true,
          show: shown[i],
          points: { show: part === "main" && (chart.points || found.main.x.length <= 30), size: 6 },
        });
        tables.push([found[part].x, found[part].y]);
        runOf.push(i);
      });
    }
    const grid = { stroke: css("--grid"), width: 1 };
    const ink = css("--text");
    const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif" };
    const values = (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick)));
    const plot = new uPlot(
      {
        width: holder.clientWidth,
        height: holder.clientHeight,
        legend: { show: false },
        scales: { x: { time: false, distr: tools.logX ? 3 : 1 }, y: { distr: tools.logY ? 3 : 1 } },
        axes: [
          { ...axis, label: axisLabel(), labelSize: 22, size: 34, values },
          { ...axis, size: 70, values },
        ],
        series,
        cursor: { y: false, points: { show: false }, sync: { key: "report" }, drag: { x: true, y: false } },
        hooks: {
          draw: [(u) => errorBars(u, drawn), (u) => chart.stages && stageMarks(u)],
          setCursor: [(u) => tell(u, drawn, tip, holder)],
          setScale: [(u, key) => key === "x" && zoomed(u)],
        },
      },
      uPlot.join(tables),
      holder,
    );
    charts.push({ plot, holder, runOf });
  }

  function errorBars(u, drawn) {
    const context = u.ctx;
    context.save();
    context.beginPath();
    context.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    context.clip();
    context.lineWidth = 1.2 * devicePixelRatio;
    drawn.forEach((found, i) => {
      if (!found || !shown[i] || !found.main.error.some((error) => error > 0)) return;
      context.strokeStyle = colour(data.runs[i]);
      context.beginPath();
      found.main.x.forEach((x, j) => {
        const error = found.main.error[j];
        if (!(error > 0) || (tools.logY && found.main.y[j] - error <= 0)) return;
        const left = u.valToPos(x, "x", true);
        context.moveTo(left, u.valToPos(found.main.y[j] - error, "y", true));
        context.lineTo(left, u.valToPos(found.main.y[j] + error, "y", true));
      });
      context.stroke();
    });
    context.restore();
  }

  // A line where a stage of a run's curriculum begins, its name beside it, above the lower edge.
  function stageMarks(u) {
    const context = u.ctx;
    const ratio = devicePixelRatio;
    const { left, top, width, height } = u.bbox;
    const rows = []; // of names: where each row is taken up to
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    context.textAlign = "left";
    const several = data.runs.filter((run, i) => shown[i] && run.stages.length).length > 1;
    data.runs.forEach((run, i) => {
      const steps = run.stages.map(([step]) => step);
      const places = shown[i] && steps.length ? onAxis(run, steps) : null;
      if (!places) return;
      run.stages.forEach(([, name], j) => {
        const x = u.valToPos(places[j], "x", true);
        if (!(x >= left - 1 && x <= left + width)) return;
        context.strokeStyle = context.fillStyle = several ? colour(run) : css("--soft");
        if (j > 0) {
          context.lineWidth = 1.2 * ratio;
          context.setLineDash([5 * ratio, 4 * ratio]);
          context.beginPath();
          context.moveTo(x, top);
          context.lineTo(x, top + height);
          context.stroke();
        }
        const size = context.measureText(name).width;
        const begin = Math.min(x + 4 * ratio, left + width - size);
        let row = rows.findIndex((end) => end <= begin);
        if (row < 0) row = rows.length;
        rows[row] = begin + size + 4 * ratio;
        context.fillText(name, begin, top + height - (2 + 14 * row) * ratio);
      });
    });
    context.restore();
  }

  function nearest(values, wanted) {
    let low = 0;
    let high = values.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low > 0 && wanted - values[low - 1] < values[low] - wanted ? low - 1 : low;
  }

  function tell(u, drawn, tip, holder) {
    const { left, top } = u.cursor;
    if (left === undefined || left === null || left < 0 || !holder.matches(":hover, .touched")) {
      tip.hidden = true;
      return;
    }
    const x = u.posToVal(left, "x");
    const rows = [];
    drawn.forEach((found, i) => {
      if (!found || !shown[i] || !found.main.x.length) return;
      const { x: xs, y: ys, error } = found.main;
      const gap = xs.length > 1 ? (xs[xs.length - 1] - xs[0]) / (xs.length - 1) : Infinity;
      if (x > xs[xs.length - 1] + gap) return; // the run has ended before
      const j = nearest(xs, x);
      rows.push([i, ys[j], error[j]]);
    });
    if (!rows.length) {
      tip.hidden = true;
      return;
    }
    rows.sort((a, b) => b[1] - a[1]);
    tip.replaceChildren(
      element("div", {}, element("b", {}, `${axisLabel()}: ${short(tools.x === "step" || tools.x === "tokens" ? Math.round(x) : x)}`)),
      ...rows.map(([i, value, error]) => {
        const dot = element("i", {});
        dot.style.background = colour(data.runs[i]);
        const name = element("span", {}, dot, data.runs[i].name);
        return element("div", {}, name, element("span", {}, error > 0 ? `${short(value)} ± ${short(error)}` : short(value)));
      }),
    );
    tip.hidden = false;
    const start = u.over.offsetLeft + left + 14;
    const fits = start + tip.offsetWidth <= holder.clientWidth;
    tip.style.left = `${fits ? start : Math.max(0, start - tip.offsetWidth - 28)}px`;
    tip.style.top = `${Math.max(0, Math.min(u.over.offsetTop + top, holder.clientHeight - tip.offsetHeight))}px`;
  }

  // What is zoomed in one chart is zoomed in all; a double click in one shows all of each.
  let spreading = false;
  function zoomed(u) {
    const { min, max } = u.scales.x;
    if (spreading || min === null || max === null || !charts.some((chart) => chart.plot === u)) return;
    const all = whole();
    const own = u.data[0];
    const reset = min <= own[0] && max >= own[own.length - 1];
    // Not now: what is set while uPlot tells of its scales is lost.
    queueMicrotask(() => zoomTo(reset || (min <= all.min && max >= all.max) ? null : { min, max }));
  }

  function whole() {
    return {
      min: Math.min(...charts.map(({ plot }) => plot.data[0][0])),
      max: Math.max(...charts.map(({ plot }) => plot.data[0][plot.data[0].length - 1])),
    };
  }

  function zoomTo(next) {
    zoom = next;
    if (!charts.length) return;
    const range = zoom || whole();
    if (range.min === range.max) return; // a single point, which uPlot gives room itself
    spreading = true;
    for (const { plot } of charts) plot.setScale("x", range);
    // Scales change at the end of the task: what they say then is the echo of this.
    queueMicrotask(() => { spreading = false; });
  }

  function zoomBy(factor) {
    if (!charts.length) return;
    const { min, max } = charts[0].plot.scales.x;
    const all = whole();
    // Towards the end of training, which is what people look at; on a log axis nothing lies below zero.
    const wanted = Math.max(max - (max - min) * factor, all.min);
    zoomTo(factor > 1 && wanted <= all.min ? null : { min: wanted, max });
  }

  // --- controls --------------------------------------------------------------------------------------------------------
  function controls() {
    const axis = document.getElementById("x-axis");
    for (const [name, label] of Object.entries(data.axes)) axis.append(element("option", { value: name }, label.replace(" (s)", "")));
    axis.addEventListener("change", () => { tools.x = axis.value; zoom = null; build(); });
    for (const [id, key] of [["log-x", "logX"], ["log-y", "logY"]]) {
      const box = document.getElementById(id);
      box.addEventListener("change", () => { tools[key] = box.checked; build(); });
    }
    // The slider is logarithmic: from single steps to a third of the longest run.
    const slider = document.getElementById("smoothing");
    const widest = Math.max(2, data.longest / 3);
    const say = () => {
      document.getElementById("window").textContent = tools.window > 1 ? `mean of ${tools.window} steps` : "every step";
    };
    slider.value = String(Math.round((100 * Math.log(Math.max(1, tools.window))) / Math.log(widest)));
    slider.addEventListener("input", () => {
      tools.window = Math.round(widest ** (slider.value / 100));
      say();
      build();
    });
    say();
    document.getElementById("zoom-in").addEventListener("click", () => zoomBy(0.5));
    document.getElementById("zoom-out").addEventListener("click", () => zoomBy(2));
    document.getElementById("zoom-reset").addEventListener("click", () => zoomTo(null));

    const legend = document.getElementById("runs");
    data.runs.forEach((run, i) => {
      const line = element("canvas", { class: "swatch", width: "52", height: "22" });
      const button = element("button", { type: "button", "aria-pressed": "true" }, line, run.name);
      button.addEventListener("click", () => {
        shown[i] = !shown[i];
        button.setAttribute("aria-pressed", String(shown[i]));
        for (const { plot, runOf } of charts) runOf.forEach((j, k) => j === i && plot.setSeries(k, { show: shown[i] }));
      });
      legend.append(button);
    });
  }

  function swatches() {
    document.querySelectorAll("canvas.swatch").forEach((canvas, i) => {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.strokeStyle = colour(data.runs[i]);
      context.lineWidth = 6;
      context.setLineDash(dash(data.runs[i]).map((length) => 1.6 * length));
      context.beginPath();
      context.moveTo(0, canvas.height / 2);
      context.lineTo(canvas.width, canvas.height / 2);
      context.stroke();
    });
  }

  // A finger has no hover: what it touched last shows its numbers, until something else is touched.
  document.addEventListener("touchstart", (event) => {
    for (const holder of document.querySelectorAll(".touched")) holder.classList.remove("touched");
    const touched = event.target.closest && event.target.closest(".plot");
    if (touched) touched.classList.add("touched");
  }, { passive: true });

  controls();
  swatches();
  build();
  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => {
      for (const { plot, holder } of charts) plot.setSize({ width: holder.clientWidth, height: holder.clientHeight });
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { swatches(); build(); });
})();
