// Hovering tells of a layer, a click or Enter chooses it (again: none), a click on a column's head sorts by it.
"use strict";
const layers = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip"), choice = document.getElementById("choice");
const of = (layer) => document.querySelectorAll(`[data-layer="${layer}"]`);
const layerAt = (event) => event.target.closest("[data-layer]")?.dataset.layer;
let near = null, chosen = null;

function mark(layer, before, name) {
  if (before !== null) of(before).forEach((part) => part.classList.remove(name));
  if (layer !== null) of(layer).forEach((part) => part.classList.add(name));
}

function hover(event) {
  const layer = layerAt(event) ?? null;
  mark(layer, near, "near");
  near = layer;
  tip.hidden = layer === null;
  if (layer === null) return;
  tip.textContent = layers[layer];
  const { clientX: x = 0, clientY: y = 0 } = event;
  tip.style.left = `${Math.max(0, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? Math.max(0, y - tip.offsetHeight - 10) : y + 18}px`;
}

function choose(layer) {
  const next = layer === chosen ? null : layer;
  mark(next, chosen, "chosen");
  chosen = next;
  choice.hidden = chosen === null;
  choice.textContent = chosen === null ? "" : layers[chosen];
  history.replaceState(null, "", chosen === null ? "#" : `#layer-${chosen}`);
}

function sort(head) {
  const body = document.querySelector("tbody"), column = head.cellIndex;
  const down = head.getAttribute("aria-sort") !== "descending" && column > 2;
  const again = head.getAttribute("aria-sort") !== null;
  const falling = again ? head.getAttribute("aria-sort") === "ascending" : down;
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const numbers = [...body.rows].every((row) => !isNaN(value(row)));
  const order = (a, b) => (numbers ? value(a) - value(b) : value(a).localeCompare(value(b)));
  [...body.rows].sort((a, b) => (falling ? order(b, a) : order(a, b))).forEach((row) => body.append(row));
  document.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
}

document.addEventListener("mousemove", hover);
document.addEventListener("focusin", (event) => { if (layerAt(event)) mark(layerAt(event), null, "near"); });
document.addEventListener("focusout", (event) => { if (layerAt(event)) mark(null, layerAt(event), "near"); });
document.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (head) sort(head);
  else if (layerAt(event)) choose(layerAt(event));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  if (event.target.closest("th")) sort(event.target.closest("th"));
  else if (layerAt(event)) choose(layerAt(event));
  else return;
  event.preventDefault();
});
const start = location.hash.match(/^#layer-(\d+)$/);
if (start && layers[start[1]]) choose(start[1]);
