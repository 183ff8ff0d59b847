"use strict";
// A click on a head sorts its table: numbers by value, text by letters, cells without a value last.
function sortBy(table, column, head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.querySelectorAll("[aria-sort]")) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = row => row.cells[column].dataset.key ?? "";
  const rows = [...table.tBodies[0].rows], numbers = rows.every(row => key(row) === "" || !Number.isNaN(Number(key(row))));
  rows.sort((one, two) => {
    const [a, b] = [key(one), key(two)];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, column, head));
  });
}

// A slider shows the curves of a figure one after another; without a script all are drawn, the last one strongly.
for (const figure of document.querySelectorAll("figure")) {
  const frames = [...figure.querySelectorAll("[data-frame]")];
  if (frames.length < 2) continue;
  const box = document.createElement("div"), label = document.createElement("label"), range = document.createElement("input");
  const said = document.createElement("output");
  box.className = "frames";
  Object.assign(range, { type: "range", min: 0, max: frames.length - 1, value: frames.length - 1 });
  range.setAttribute("aria-label", "epoch of the function shown");
  const show = () => {
    frames.forEach((each, i) => {
      each.classList.toggle("now", i === Number(range.value));
      each.classList.toggle("later", i > Number(range.value));
    });
    label.textContent = frames[range.value].dataset.frame;
    said.textContent = frames[range.value].dataset.text;
    said.className = "formula";
  };
  range.addEventListener("input", show);
  box.append(label, range, said);
  figure.append(box);
  show();
}
