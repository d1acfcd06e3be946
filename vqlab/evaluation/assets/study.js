// The plane: which distortion and which rate are shown, what a mark says, which method stands out.
const planes = [...document.querySelectorAll(".plane")];
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`)?.value;
const choosePlane = () => {
  for (const plane of planes)
    plane.hidden = plane.dataset.metric !== chosen("metric") || plane.dataset.rate !== chosen("rate");
};
for (const input of document.querySelectorAll(".controls input"))
  input.addEventListener("change", choosePlane);
choosePlane();

const tip = document.body.appendChild(document.createElement("div"));
tip.className = "tip";
tip.hidden = true;
const say = (mark) => {
  const { left, top, width } = mark.querySelector(".hit").getBoundingClientRect();
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(left + width, room))}px`;
  tip.style.top = `${scrollY + Math.max(top - tip.offsetHeight - 4, 4)}px`;
};
for (const mark of document.querySelectorAll(".mark")) {
  const title = mark.querySelector("title");
  mark.dataset.tip = title.textContent;
  mark.setAttribute("aria-label", title.textContent);
  title.remove();
  mark.addEventListener("pointerenter", () => say(mark));
  mark.addEventListener("focus", () => say(mark));
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, () => (tip.hidden = true));
}

const focusFamily = (family) => {
  for (const plot of document.querySelectorAll("svg.plot")) {
    plot.classList.toggle("focused", family !== null);
    for (const one of plot.querySelectorAll(".family"))
      one.classList.toggle("chosen", one.dataset.family === family);
  }
};
for (const button of document.querySelectorAll(".legend button")) {
  for (const event of ["pointerenter", "focus"])
    button.addEventListener(event, () => focusFamily(button.dataset.family));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => focusFamily(null));
}

// While a picture is pressed, its original stands in its place.
for (const row of document.querySelectorAll(".gallery .row:not(.originals)")) {
  const originals = [...document.querySelectorAll(".gallery .originals img")];
  [...row.querySelectorAll(".shot")].forEach((shot, column) => {
    const swap = (isPressed) => {
      for (const image of shot.querySelectorAll("img")) {
        image.dataset.own ??= image.src;
        image.src = isPressed ? originals[column].src : image.dataset.own;
      }
    };
    shot.addEventListener("pointerdown", () => swap(true));
    for (const event of ["pointerup", "pointerleave", "pointercancel"])
      shot.addEventListener(event, () => shot.querySelector("img").dataset.own && swap(false));
  });
}
