// Values under the pointer, and the data as a file. The page is complete without this.
"use strict";
(() => {
  const text = document.getElementById("result").textContent;
  const result = JSON.parse(text);

  const save = document.getElementById("save");
  save.hidden = false;
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = `bench-${result.id}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });

  const columns = {};
  for (const run of result.runs) {
    const { due_ns: due, end_ns: end, skipped } = run.samples;
    const latency = due.map((at, k) => (end[k] - at) / 1e6);
    const sorted = latency.slice().sort((a, b) => a - b);
    columns[run.period_ms === null ? "closed" : "paced"] = { seconds: due.map((at) => (at - due[0]) / 1e9), latency, skipped, sorted };
  }
  const shown = (value) => Number(value.toPrecision(4)).toString();

  // Place of the last value that is not above `at` in rising values, or of the next one where that is nearer.
  const nearest = (values, at) => {
    let low = 0;
    let high = values.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < at) low = middle + 1;
      else high = middle;
    }
    return low > 0 && at - values[low - 1] < values[low] - at ? low - 1 : low;
  };

  // Kind of chart -> what to tell about a place on its x axis, and where on the axis that is.
  const kinds = {
    timeline: (at, mode, scale) => {
      const { seconds, latency, skipped } = columns[mode];
      const k = nearest(seconds, at * scale);
      const missed = skipped[k] ? `\n${skipped[k]} skipped before it` : "";
      return [`chunk ${k}, due at ${seconds[k].toFixed(3)} s\n${shown(latency[k])} ms${missed}`, seconds[k] / scale];
    },
    tail: (at) => {
      const lines = Object.entries(columns).filter(([, run]) => run.sorted.length).map(([mode, run]) => {
        const k = Math.min(run.sorted.length - 1, Math.floor(run.sorted.length * (1 - 1 / at)));
        return `${mode}: ${shown(run.sorted[k])} ms`;
      });
      return [`${shown(100 * (1 - 1 / at))} % of chunks took at most\n${lines.join("\n")}`, at];
    },
    board: (at, field, per, scale) => {
      const begin = result.readings[0].time_ns;
      const times = result.readings.map((reading) => (reading.time_ns - begin) / 1e9 / per);
      const k = nearest(times, at);
      const values = Object.entries(result.readings[k].state[field]).sort();
      const lines = values.map(([name, value]) => `${name}: ${shown(value * scale)}`);
      return [`${(times[k] * per).toFixed(1)} s\n${lines.join("\n")}`, times[k]];
    },
  };

  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const [kind, ...settings] = svg.dataset.hover.split(":");
    const given = settings.map((word) => (Number.isNaN(Number(word)) ? word : Number(word)));
    const [low, high, log] = svg.dataset.x.split(",").map(Number);
    const figure = svg.parentElement;
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    figure.append(tip);
    const [cursor, area, silence] = ["line", "rect", "title"].map((name) => document.createElementNS(svg.namespaceURI, name));
    cursor.setAttribute("class", "flag");
    // A title of its own, empty, keeps browsers from showing that of the whole chart.
    area.append(silence);
    const top = Number(svg.dataset.top);
    const height = Number(svg.dataset.height);
    for (const [name, value] of Object.entries({ x: 0, y: top, width: "100%", height, fill: "transparent" })) {
      area.setAttribute(name, value);
    }
    svg.append(cursor, area);
    const hide = () => {
      tip.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    };
    area.addEventListener("pointerleave", hide);
    area.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const [words, at] = kinds[kind](log ? low * (high / low) ** part : low + (high - low) * part, ...given);
      const share = log ? Math.log(at / low) / Math.log(high / low) : (at - low) / (high - low);
      const x = Math.min(1, Math.max(0, share)) * box.width;
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: top, y2: top + height, visibility: "visible" })) {
        cursor.setAttribute(name, value);
      }
      tip.textContent = words;
      tip.hidden = false;
      const start = box.left - figure.getBoundingClientRect().left + x;
      tip.style.top = `${top}px`;
      tip.style.left = `${x > box.width / 2 ? start - tip.offsetWidth - 10 : start + 10}px`;
    });
  }
})();
