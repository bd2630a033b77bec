// Runs before the first paint: follows the system's light or dark look and says that scripts run.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => root.setAttribute("data-bs-theme", dark.matches ? "dark" : "light");
  root.classList.add("js");
  dark.addEventListener("change", follow);
  follow();
})();
