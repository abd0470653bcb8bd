// Pages are complete without this. It keeps them fresh, switches the theme, and takes keys for the label queue.
(() => {
  "use strict";
  const root = document.documentElement;
  const one = (selector, from = document) => from.querySelector(selector);

  // Theme: a cookie, so that the server writes the right one and nothing flashes.
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const switcher = one("button.theme");
  const nameSwitch = () => {
    switcher.textContent = isDark() ? "Light" : "Dark";
    switcher.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} theme`);
  };
  switcher.hidden = false;
  switcher.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `edgehone_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
    nameSwitch();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameSwitch);
  nameSwitch();

  // Turn one element into another and keep what did not change: focus, open details, selections.
  const KEPT = new Set(["open"]);
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
    for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const before = [...old.childNodes], after = [...fresh.childNodes];
    after.forEach((child, at) => at < before.length ? morph(before[at], child) : old.append(document.importNode(child, true)));
    before.slice(after.length).forEach((child) => child.remove());
  };

  // Live parts: elements with data-live and an id are read again from the same page, every data-every seconds.
  const lost = one("#lost");
  const get = async (address, options = {}) => {
    const answer = await fetch(address, { credentials: "same-origin", ...options });
    if (new URL(answer.url).pathname === "/sign-in") location.assign("/sign-in?to=" + encodeURIComponent(location.pathname + location.search));
    return { answer, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
  };
  const every = Number(root.dataset.every) * 1000;
  let misses = 0, busy = false;
  const refresh = async () => {
    if (document.hidden || busy) return;
    busy = true;
    try {
      const { answer, page } = await get(location.href);
      if (answer.ok) {
        for (const part of document.querySelectorAll("[data-live]")) {
          const fresh = page.getElementById(part.id);
          if (fresh) morph(part, fresh);
        }
        misses = 0;
      } else misses += 1;
    } catch { misses += 1; }
    busy = false;
    lost.hidden = misses < 2;
  };
  if (every > 0) {
    setInterval(refresh, every);
    document.addEventListener("visibilitychange", refresh);
  }

  // Choosing a filter sends it.
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-send]")) event.target.form.requestSubmit();
  });

  // Copying needs a browser that lets a page do so.
  if (navigator.clipboard) for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(one(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }

  // The label queue.
  let desk = one("#desk");
  if (!desk) return;
  const note = one("#note");
  const swap = async (address, options) => {
    if (busy) return;
    busy = true;
    desk.setAttribute("aria-busy", "true");
    try {
      const { answer, page } = await get(address, options);
      const fresh = page.getElementById("desk");
      if (!answer.ok || !fresh) {
        note.textContent = one("main p", page)?.textContent || "This did not work. Load the page again.";
        desk.removeAttribute("aria-busy");
      } else {
        desk.replaceWith(document.importNode(fresh, true));
        desk = one("#desk");
        history.replaceState(null, "", answer.url);
        note.textContent = one("[data-say]", desk)?.dataset.say || "";
      }
    } catch {
      note.textContent = "The core does not answer. Nothing was lost: press the key again.";
      desk.removeAttribute("aria-busy");
    }
    busy = false;
  };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("#desk form")) return;
    event.preventDefault();
    const body = new FormData(form, event.submitter);
    swap(form.action, { method: "POST", body: new URLSearchParams(body) });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#desk a[data-swap]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    swap(link.href);
  });
  const press = (key) => {
    const target = [...desk.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
    if (!target) return false;
    if (target.matches("details")) {
      target.open = true;
      one("input:not([type=hidden]), button", target).focus();
    } else if (target.matches("input")) target.focus();
    else target.click();
    return true;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const inField = event.target.matches("input:not([type=hidden]), textarea, select");
    if (event.key === "Escape" && desk.contains(event.target)) {
      event.target.closest("details")?.removeAttribute("open");
      event.target.blur();
      return;
    }
    if (inField || (event.key === "Enter" && event.target.matches("a, button, summary"))) return;
    if (press(event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
  });
})();
