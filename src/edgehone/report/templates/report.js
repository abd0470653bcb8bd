// The page is complete without this: it adds a theme switch, one version at a time, quick tooltips and copy buttons.
(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Theme: ?theme=dark in the address, then what was chosen here before, then the system's.
  const remember = (value) => {
    try { return value ? localStorage.setItem("edgehone-theme", value) : localStorage.getItem("edgehone-theme"); } catch { return null; }
  };
  const asked = new URLSearchParams(location.search).get("theme") || remember();
  if (asked === "dark" || asked === "light") root.dataset.theme = asked;
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.querySelector("button.theme");
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} theme`); };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // One version at a time; printing shows them all.
  const tabs = document.querySelector(".tabs");
  const show = (which) => {
    all("article.member").forEach((article) => article.classList.toggle("away", which !== "all" && article.dataset.member !== which));
    all("button", tabs).forEach((tab) => tab.setAttribute("aria-pressed", String(tab.dataset.show === which)));
  };
  tabs.hidden = false;
  all("button", tabs).forEach((tab) => tab.addEventListener("click", () => show(tab.dataset.show)));
  show((tabs.querySelector("[data-first]") || tabs.querySelector("button")).dataset.show);
  addEventListener("beforeprint", () => all("details").forEach((details) => { details.open = true; }));

  // Tooltips: what a mark says, at once and under the pointer.
  const tip = document.querySelector(".tip");
  all("svg g > title").forEach((title) => {
    const mark = title.parentNode;
    mark.dataset.tip = title.textContent;
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
  });
  all("[title]").forEach((element) => { element.dataset.tip = element.title; element.removeAttribute("title"); });
  const place = (event) => {
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const y = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.transform = `translate(${Math.max(8, x)}px, ${y}px)`;
  };
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest("[data-tip]");
    tip.hidden = !mark;
    if (mark) { tip.textContent = mark.dataset.tip; place(event); }
  });
  document.addEventListener("pointermove", (event) => { if (!tip.hidden) place(event); });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Copy.
  all("button.copy").forEach((copy) => {
    if (!navigator.clipboard) return;
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(copy.parentNode.querySelector("code").textContent); copy.textContent = "Copied"; } catch { copy.textContent = "Select and copy"; }
      setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    });
  });
})();
