// One slider for all pictures below it: each shows as many of its units as there are, up to the
// number chosen. Without this script every number is shown.
for (const scope of document.querySelectorAll(".units")) {
  const slider = scope.querySelector("input[type=range]");
  const every = scope.querySelector("input.every");
  const output = scope.querySelector("output");
  const levels = scope.dataset.levels.split(" ").map(Number);
  const noun = scope.dataset.noun;
  const show = () => {
    const kept = levels[slider.value];
    output.textContent = `${kept} ${kept === 1 ? noun.slice(0, -1) : noun}`;
    slider.disabled = !!every?.checked;
    for (const box of scope.querySelectorAll(".pictures"))
      box.classList.toggle("all", !!every?.checked);
    for (const steps of scope.querySelectorAll(".steps")) {
      const found = [...steps.querySelectorAll("[data-kept]")];
      const fit = found.filter((one) => Number(one.dataset.kept) <= kept);
      const best = fit.length ? fit[fit.length - 1].dataset.kept : found[0].dataset.kept;
      for (const one of found) one.hidden = !every?.checked && one.dataset.kept !== best;
    }
  };
  slider.addEventListener("input", show);
  every?.addEventListener("change", show);
  show();
}
