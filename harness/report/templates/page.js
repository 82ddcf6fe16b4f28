"use strict";
const root = document.documentElement;
const wanted = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
root.dataset.theme = wanted();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { root.dataset.theme = wanted(); });
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});

const boxes = [...document.querySelectorAll("input.suite")];
const filter = () => {
  const on = new Set(boxes.filter((b) => b.checked).map((b) => b.value));
  for (const part of document.querySelectorAll("[data-suite]")) part.hidden = !on.has(part.dataset.suite);
  // A chart that was hidden while it was drawn has no width yet.
  dispatchEvent(new Event("resize"));
};
for (const box of boxes) box.addEventListener("change", filter);
document.getElementById("all-suites")?.addEventListener("click", () => {
  const all = boxes.every((b) => b.checked);
  for (const box of boxes) box.checked = !all;
  filter();
});
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });

// Narrow pages give an axis' labels at most a third of the width.
const draw = (spec, place) => {
  const limit = Math.max(90, Math.min(260, place.clientWidth / 3));
  spec.config.axis.labelLimit = limit;
  return vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
};
const drawn = [...document.querySelectorAll("script.spec")].map((script) =>
  draw(JSON.parse(script.textContent), document.getElementById(script.dataset.for)));
Promise.all(drawn).then(() => { root.dataset.drawn = String(drawn.length); });
