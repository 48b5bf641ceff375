"use strict";
// The gallery: filters, sorting, pages, and the decoder's attention over the photo.
(() => {
  const PAGE = 24;
  const byId = (id) => document.getElementById(id);
  const [gallery, query, where, order, count, more] = ["cards", "query", "where", "sort", "count", "more"].map(byId);

  // Each character of these scripts is a word.
  const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー][\p{M}\uff9e\uff9f]*/gu;
  // Words are between single spaces: a whole word is " word ", the beginning of one is " wor".
  // Some English words are two tokens: isn't, dog's, cannot, gonna.
  const CANNOT = /(?<![\p{L}\p{N}])(can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:gim|lem)(?=me))(?=(?:not|na|ta|me)(?![\p{L}\p{N}-]))/gu;
  const english = (text) => text.replace(/n't(?![\p{L}\p{N}])/gu, " n't").replace(/'(?=(s|re|ve|ll|d|m)(?![\p{L}\p{N}]))/gu, " '").replace(gallery.lang === "en" ? CANNOT : /$^/, "$1 ");
  const apart = (text) => english(text.replace(/[\u2018\u2019\u02bb\u02bc\u00b4\u2032\u201b]/g, "'"));
  const bare = (word) => (/^'(s|re|ve|ll|d|m)$/.test(word) ? word : word.replace(/^'+|'+$/g, ""));
  const words = (text) => ` ${apart(text.toLocaleLowerCase(gallery.lang)).replace(UNSPACED, " $& ").split(/[^\p{L}\p{M}\p{N}'-]+/u).map(bare).filter(Boolean).join(" ")} `;
  const cards = [...gallery.children].map((element, at) => {
    const text = (selector) => words([...element.querySelectorAll(selector)].map((one) => one.textContent).join(" "));
    const texts = { finetuned: text(".finetuned .caption"), frozen: text(".frozen .caption"), references: text("li") };
    texts.all = texts.finetuned + texts.frozen + texts.references;
    const { cider, frozenCider, gain } = element.dataset;
    return { element, at, texts, cider: +cider, frozen: +frozenCider, gain: +gain };
  });
  let shown = PAGE;

  const matches = (card) => {
    if (where.value === "exact") return !query.value.trim() || card.texts.finetuned === words(query.value);
    const wanted = words(query.value).trimStart();
    if (!wanted) return !query.value.trim(); // a query of signs alone matches nothing
    const open = /\s$/.test(query.value) ? wanted : wanted.trimEnd(); // the last word may be longer
    const every = (text) => open.split(/(?<= )/).every((word) => text.includes(` ${word}`));
    if (where.value === "hallucinated") return every(card.texts.finetuned) && !every(card.texts.references);
    return every(card.texts[where.value]);
  };

  const update = () => {
    const [key, direction] = [order.value.slice(0, -1), order.value.endsWith("-") ? -1 : 1];
    const sorted = [...cards].sort(
      (a, b) => (order.value === "name" ? 0 : direction * (a[key] - b[key])) || a.at - b.at);
    const matching = sorted.filter(matches);
    cards.forEach((card) => { card.element.hidden = true; });
    matching.slice(0, shown).forEach((card) => { card.element.hidden = false; });
    gallery.append(...sorted.map((card) => card.element));
    more.hidden = matching.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, matching.length - shown)} more`;
    const mean = (name) => (matching.reduce((sum, card) => sum + card[name], 0) / matching.length).toFixed(1);
    count.textContent = `${matching.length} of ${cards.length} images` +
      (matching.length ? `, mean CIDEr ${mean("frozen")} frozen, ${mean("cider")} fine-tuned` : "");
  };
  const restart = () => { shown = PAGE; update(); };

  for (const control of [query, where, order]) control.addEventListener("input", restart);
  query.form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    update();
    const next = gallery.querySelectorAll(".card:not([hidden])")[first];
    next.tabIndex = -1; // the keyboard continues at the first new card
    next.focus({ preventScroll: true });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".find");
    if (!button) return;
    where.value = button.dataset.where;
    query.value = `${button.dataset.query} `;
    restart();
    byId("gallery").scrollIntoView();
    query.focus({ preventScroll: true });
  });
  query.form.hidden = false;
  update();

  // Attention: a canvas with one pixel a place, enlarged smoothly over the photo.
  const DARKEST = 0.8;
  const veil = document.createElement("canvas");
  const label = document.createElement("p");
  label.className = "attention";
  const levelsOf = (caption) => {
    const bytes = Uint8Array.from(atob(caption.dataset.attention), (letter) => letter.charCodeAt(0));
    return { bytes, places: bytes.length / caption.children.length };
  };
  let looking = null;
  const hide = () => {
    looking?.classList.remove("looking");
    looking = null;
    veil.remove();
    label.remove();
  };
  const show = (word) => {
    if (word === looking) return;
    hide();
    looking = word;
    word.classList.add("looking");
    const caption = word.parentElement;
    const { bytes, places } = levelsOf(caption);
    const first = [...caption.children].indexOf(word) * places;
    const weights = [...bytes.subarray(first, first + places)].map((level) => (level / 255) ** 2);
    const most = Math.max(...weights);
    const side = Math.sqrt(places);
    veil.width = veil.height = side;
    const context = veil.getContext("2d");
    const picture = context.createImageData(side, side);
    weights.forEach((weight, place) => {
      picture.data[4 * place + 3] = 255 * DARKEST * (1 - (most ? weight / most : 1)); // black; the less attention, the more opaque
    });
    context.putImageData(picture, 0, 0);
    const part = (at) => Math.min(2, Math.floor((3 * (at + 0.5)) / side));
    const at = weights.indexOf(most);
    const place = `${["top", "middle", "bottom"][part(Math.floor(at / side))]} ${["left", "centre", "right"][part(at % side)]}`;
    label.textContent = `${word.textContent}: ${(100 * most).toFixed(0)} % (even: ${(100 / places).toFixed(0)} %)`;
    word.closest(".card").querySelector(".photo > div").append(veil, label);
    byId("announcement").textContent = `${word.textContent}: most at the ${place}, ${(100 * most).toFixed(0)} %`;
  };
  const wordAt = (target) => target.closest?.("[data-attention] > span");

  gallery.addEventListener("pointerover", (event) => {
    const word = wordAt(event.target);
    if (word) show(word);
    else if (event.pointerType === "mouse" && !looking?.parentElement.matches(":focus")) hide();
  });
  gallery.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  document.addEventListener("click", (event) => {
    const word = wordAt(event.target);
    if (word) show(word);
    else hide();
  });
  gallery.addEventListener("focusin", (event) => {
    const caption = event.target;
    if (caption.matches("[data-attention]:focus-visible") && caption.firstElementChild) show(caption.firstElementChild);
  });
  gallery.addEventListener("focusout", hide);
  gallery.addEventListener("keydown", (event) => {
    const caption = event.target;
    if (!caption.matches("[data-attention]") || !caption.firstElementChild) return;
    const now = looking?.parentElement === caption ? looking : null;
    const [forward, backward] = getComputedStyle(caption).direction === "rtl" ? ["ArrowLeft", "ArrowRight"] : ["ArrowRight", "ArrowLeft"];
    const steps = {
      [forward]: () => show(now?.nextElementSibling ?? caption.firstElementChild),
      [backward]: () => show(now?.previousElementSibling ?? caption.lastElementChild),
      Home: () => show(caption.firstElementChild),
      End: () => show(caption.lastElementChild),
      Escape: hide,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    steps[event.key]();
  });
})();
