// The little a page needs beyond htmx: copying, saying changes aloud, owning up to stale pages, showing the
// reader's own time.
(() => {
  const spoken = document.getElementById("spoken");

  const announce = (root) => {
    const carrier = root.querySelector("[data-announce]");
    const sentence = carrier ? carrier.dataset.announce : "";
    if (spoken && sentence && spoken.textContent !== sentence) spoken.textContent = sentence;
  };

  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      time.title = new Date(time.getAttribute("datetime")).toLocaleString();
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const label = button.querySelector("[data-copy-label]");
    try {
      await navigator.clipboard.writeText(source.textContent);
      label.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(source);
      label.textContent = "Selected: copy it with the keyboard";
    }
    setTimeout(() => { label.textContent = "Copy"; }, 4000);
  });

  // A page nobody looks at asks for nothing.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.elt.hasAttribute("data-poll")) event.preventDefault();
  });
  // A session that has ended answers with the sign-in page: show it as a page, not inside this one.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, pathInfo } = event.detail;
    if (!xhr.responseURL) return;
    if (new URL(xhr.responseURL).pathname === new URL(pathInfo.requestPath, location.href).pathname) return;
    event.detail.shouldSwap = false;
    location.reload();
  });

  const stale = document.getElementById("stale");
  const isStale = (truth) => () => { stale.hidden = !truth; };
  document.addEventListener("htmx:sendError", isStale(true));
  document.addEventListener("htmx:responseError", isStale(true));
  document.addEventListener("htmx:afterSwap", isStale(false));
  document.addEventListener("htmx:afterSwap", (event) => {
    announce(document);
    localTimes(event.detail.target);
  });
  localTimes(document);
})();
