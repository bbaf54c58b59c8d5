// Tables sort by the column clicked; what has no value stays last.
for (const head of document.querySelectorAll("thead th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? by : -by;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// A figure opens over the page; a click or Escape closes it.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const [image, shown] = [button.querySelector("img"), dialog.querySelector("img")];
    [shown.src, shown.alt] = [image.src, image.alt];
    dialog.querySelector("figcaption").textContent = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());

// Paper has nothing to click on.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
