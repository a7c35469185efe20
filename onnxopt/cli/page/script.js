// Only searching needs this; everything else on the page is there without scripts.
for (const box of document.querySelectorAll("[data-search]")) {
  const rows = [...document.getElementById(box.dataset.search).querySelectorAll("tbody tr")];
  const words = rows.map((row) => row.textContent.toLowerCase());
  const count = box.parentElement.querySelector("output");
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "search names, ops, tensors";
  search.setAttribute("aria-label", search.placeholder);
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => words[i].includes(word));
      shown += !row.hidden;
    });
    count.textContent = wanted.length ? `${shown} of ${rows.length}` : "";
  });
  box.append(search);
}
