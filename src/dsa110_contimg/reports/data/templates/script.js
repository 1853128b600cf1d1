"use strict";
document.documentElement.classList.add("js");

// Tables: a click (or Enter) on a heading sorts; cells may carry data-v as the value to sort by.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const value = (row, i) => {
    const cell = row.cells[i];
    const text = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
    if (text === "" || text === "–") return null;
    return isNaN(text) ? text : Number(text);
  };
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      [...table.tHead.rows[0].cells].forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, i), row]);
      rows.sort((a, b) => {
        const blank = (a[0] === null) - (b[0] === null);
        return blank || (down ? -1 : 1) * order(a[0], b[0]);
      });
      rows.forEach((pair) => body.appendChild(pair[1]));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
});

// Filters: rows whose data-state or text does not match are hidden.
document.querySelectorAll("[data-filter]").forEach((box) => {
  const table = document.getElementById(box.dataset.filter);
  const state = box.querySelector("select");
  const text = box.querySelector("input");
  const count = box.querySelector("output");
  const apply = () => {
    let shown = 0;
    [...table.tBodies[0].rows].forEach((row) => {
      const fits = (!state || !state.value || row.dataset.state === state.value) &&
        (!text || row.textContent.toLowerCase().includes(text.value.toLowerCase()));
      row.hidden = !fits;
      shown += fits;
    });
    if (count) count.textContent = shown + " of " + table.tBodies[0].rows.length;
  };
  [state, text].forEach((field) => field && field.addEventListener("input", apply));
  apply();
});

// Pan with the mouse, zoom with the wheel about the pointer, double click to reset.
function panZoom(frame, stage, moved) {
  let x = 0, y = 0, scale = 1, grip = null;
  const draw = () => { stage.style.transform = `translate(${x}px,${y}px) scale(${scale})`; };
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left - frame.clientLeft - stage.offsetLeft,
      event.clientY - box.top - frame.clientTop - stage.offsetTop];
  };
  const zoom = (factor, px, py) => {
    const next = Math.min(40, Math.max(1, scale * factor));
    x = px - ((px - x) * next) / scale;
    y = py - ((py - y) * next) / scale;
    scale = next;
    if (scale === 1) { x = 0; y = 0; }
    draw();
  };
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
  }, { passive: false });
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  frame.addEventListener("pointerdown", (event) => { grip = [event.clientX - x, event.clientY - y]; });
  window.addEventListener("pointerup", () => { grip = null; });
  frame.addEventListener("pointermove", (event) => {
    if (grip) { x = event.clientX - grip[0]; y = event.clientY - grip[1]; draw(); }
    if (moved) {
      const box = stage.getBoundingClientRect();
      moved((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    }
  });
  const reset = () => { x = 0; y = 0; scale = 1; draw(); };
  frame.addEventListener("dblclick", reset);
  return { reset, zoom };
}

// Any figure opens large.
document.addEventListener("click", (event) => {
  const image = event.target.closest("img.zoom");
  if (!image) return;
  const box = document.createElement("div");
  box.className = "lightbox";
  const large = document.createElement("img");
  large.src = image.dataset.large || image.src;
  large.alt = image.alt;
  const words = document.createElement("p");
  words.textContent = (image.alt || "") + " — wheel zooms, drag moves, Esc closes";
  box.append(large, words);
  document.body.append(box);
  panZoom(box, large);
  const close = () => { box.remove(); document.removeEventListener("keydown", key); };
  const key = (e) => { if (e.key === "Escape") close(); };
  document.addEventListener("keydown", key);
  box.addEventListener("click", (e) => { if (e.target === box) close(); });
});

// Mosaic: coordinates under the pointer from a coarse grid of sky positions, and overlays.
document.querySelectorAll(".viewer").forEach((frame) => {
  const stage = frame.querySelector(".stage");
  const tools = document.querySelector(`[data-viewer="${frame.id}"]`);
  const grid = JSON.parse(document.getElementById(frame.id + "-grid").textContent);
  const read = tools.querySelector("output");
  const pad = (v, w) => v.toFixed(w).padStart(w ? w + 3 : 2, "0");
  const sexagesimal = (v, w) => {
    const total = Math.round(v * 3600 * 10 ** w);
    const unit = 3600 * 10 ** w;
    return [pad(Math.floor(total / unit), 0), pad(Math.floor((total % unit) / (60 * 10 ** w)), 0),
      pad((total % (60 * 10 ** w)) / 10 ** w, w)].join(":");
  };
  const where = (right, down) => {
    const u = right * (grid.nx - 1), v = down * (grid.ny - 1);
    const i = Math.floor(u), j = Math.floor(v);
    if (i < 0 || j < 0 || i >= grid.nx - 1 || j >= grid.ny - 1) { read.textContent = ""; return; }
    const mix = (a) => {
      const p = a[j][i] * (i + 1 - u) + a[j][i + 1] * (u - i);
      const q = a[j + 1][i] * (i + 1 - u) + a[j + 1][i + 1] * (u - i);
      return p * (j + 1 - v) + q * (v - j);
    };
    const ra = ((mix(grid.ra) % 360) + 360) % 360, dec = mix(grid.dec);
    read.textContent = isNaN(ra) ? "" : `RA ${sexagesimal(ra / 15, 1)}  Dec ${dec < 0 ? "−" : "+"}${sexagesimal(Math.abs(dec), 0)}`;
  };
  const view = panZoom(frame, stage, where);
  tools.addEventListener("click", (event) => {
    const act = event.target.dataset.act;
    const half = [frame.clientWidth / 2, frame.clientHeight / 2];
    if (act === "in") view.zoom(1.6, ...half);
    if (act === "out") view.zoom(1 / 1.6, ...half);
    if (act === "reset") view.reset();
    if (act === "invert") { const i = stage.querySelector("img"); i.style.filter = i.style.filter ? "" : "invert(1)"; }
    if (act === "marks") { const s = stage.querySelector("svg"); s.style.display = s.style.display ? "" : "none"; }
  });
});

// Variability plane: the light curve of the source under the pointer.
document.querySelectorAll(".plane").forEach((frame) => {
  const preview = frame.querySelector(".preview");
  frame.addEventListener("pointermove", (event) => {
    const link = event.target.closest("[data-curve]");
    preview.hidden = !link;
    if (!link) return;
    const box = frame.getBoundingClientRect();
    if (preview.getAttribute("src") !== link.dataset.curve) preview.src = link.dataset.curve;
    preview.style.left = Math.min(event.clientX - box.left + 12, box.width - 370) + "px";
    preview.style.top = event.clientY - box.top + 12 + "px";
  });
});

// Sources within a radius of a position, degrees or sexagesimal (hours, degrees).
const cone = document.getElementById("cone");
if (cone) {
  const [field, radius, said] = [cone.querySelector("input"), cone.querySelector("select"), cone.querySelector("span")];
  const rows = [...document.getElementById("source-table").tBodies[0].rows];
  const angle = (text, hours) => {
    const parts = text.split(":").map(Number);
    const size = Math.abs(parts[0]) + (parts[1] || 0) / 60 + (parts[2] || 0) / 3600;
    return (text.trim().startsWith("-") ? -1 : 1) * size * (hours && parts.length > 1 ? 15 : 1);
  };
  const search = () => {
    const words = field.value.trim().split(/[\s,]+/);
    const [ra, dec] = [angle(words[0] || "", true), angle(words[1] || "", false)];
    const all = words.length < 2 || isNaN(ra) || isNaN(dec);
    const rad = Math.PI / 180;
    let shown = 0;
    rows.forEach((row) => {
      const d = Number(row.dataset.dec) * rad, da = (Number(row.dataset.ra) - ra) * rad;
      const h = Math.sin((d - dec * rad) / 2) ** 2 + Math.cos(d) * Math.cos(dec * rad) * Math.sin(da / 2) ** 2;
      row.hidden = !all && (2 * Math.asin(Math.sqrt(h))) / rad > Number(radius.value);
      shown += !row.hidden;
    });
    said.textContent = all ? "" : shown + " found";
  };
  [field, radius].forEach((f) => f.addEventListener("input", search));
}
