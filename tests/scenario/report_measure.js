// Measures the report in the frame when it has loaded, and leaves what it found on the body as JSON.
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const all = (selector, from = page) => [...from.querySelectorAll(selector)];
  const box = (element) => element.getBoundingClientRect();
  const seen = (element) => element.getClientRects().length > 0;
  const words = (elements) => elements.map((element) => element.textContent);

  const sticksOut = (element, around) => box(element).left < box(around).left - 1 || box(element).right > box(around).right + 1;
  const touch = (a, b) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const size = (text) => {
    const plot = text.ownerSVGElement;
    return parseFloat(view.getComputedStyle(text).fontSize) * box(plot).width / plot.viewBox.baseVal.width;
  };

  const plots = all("svg.plot").filter(seen);
  const texts = plots.flatMap((plot) => all("text", plot).filter(seen));
  const lie = plots.flatMap((plot) => ["text.name", "text.tick", "text.axis"].flatMap((kind) => {
    const upright = all(kind, plot).filter((text) => !text.hasAttribute("transform"));
    return upright.flatMap((a, i) => upright.slice(0, i).filter((b) => touch(box(a), box(b))).map((b) => words([a, b]).join(" on ")));
  }));

  document.body.dataset.found = JSON.stringify({
    wrong: view.wrong,
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    width: root.clientWidth,
    scroll: root.scrollWidth,
    text: page.body.textContent,
    plots: plots.length,
    tiny: words(texts.filter((text) => size(text) < 9)),
    cut: all(".card").filter(seen).flatMap((card) => words(all("svg text, figcaption, li", card).filter(seen).filter((t) => sticksOut(t, card)))),
    lie,
    shown: all("article.member").filter(seen).length,
    labels: all(".family td").filter((cell) => view.getComputedStyle(cell, "::before").content !== "none").length,
    paper: view.getComputedStyle(page.body).backgroundColor,
  });
});
