// A table is sorted by a click on a heading; a second click turns the order. What is no number, such
// as nan, comes after the numbers in both.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const turned = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const order = (a, b) => {
        const [one, other] = [a.cells[column], b.cells[column]];
        const [first, second] = [one.dataset.value, other.dataset.value];
        if (first && second) return turned * (first - second);
        if (first || second) return first ? -1 : 1;
        return turned * one.textContent.localeCompare(other.textContent);
      };
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", turned === 1 ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    });
  });
}
