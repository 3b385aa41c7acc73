"use strict";
const dialog = document.querySelector("dialog");
const buttons = [...document.querySelectorAll(".shot button")];
let shown = 0;

function show(index) {
  shown = (index + buttons.length) % buttons.length;
  const figure = buttons[shown].closest("figure");
  dialog.replaceChildren(figure.querySelector("svg").cloneNode(true));
  const caption = document.createElement("p");
  caption.textContent = figure.querySelector("figcaption").textContent.replace(/\s+/g, " ").trim();
  dialog.append(caption);
  if (!dialog.open) dialog.showModal();
}

buttons.forEach((button, index) => button.addEventListener("click", () => show(index)));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => buttons[shown].focus());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
