// The numbers of a table are sorted by a click on their heading; a second click turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const turned = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const text = (row) => row.cells[column].textContent;
      const order = (a, b) => {
        const [first, second] = [Number(text(a)), Number(text(b))];
        const numbers = !Number.isNaN(first) && !Number.isNaN(second);
        return turned * (numbers ? first - second : text(a).localeCompare(text(b)));
      };
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", turned === 1 ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    });
  });
}
