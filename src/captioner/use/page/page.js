"use strict";
// Sends photos to POST /caption, one after another, and shows what comes back.
(() => {
  const LARGEST = 20 * 1024 * 1024; // bytes of a photo; the server has the same
  const FIRST = 5; // captions, and training photos, that are shown at once
  const DARKEST = 0.82;
  const byId = (id) => document.getElementById(id);
  const cards = byId("cards");
  const waiting = [];
  let running = false;
  let done = 0;
  let total = 0;
  let leftOut = 0;
  let empty = false; // whether the last choice had no file

  const say = (text) => { byId("announcement").textContent = text; };
  const number = (value, digits) => value.toFixed(digits).replace("-", "−");
  const inOrder = new Intl.Collator(undefined, { numeric: true }).compare; // 2.jpg before 10.jpg
  // 62 %, 4.9 %, 0.08 %, 0.0001 %: one digit that is not 0, at least; no line ends before the sign
  const percent = (value) => {
    const digits = value >= 0.1 ? 0 : Math.min(6, Math.max(1, Math.ceil(-Math.log10(100 * value || 1))));
    return `${value > 0 && value < 5e-9 ? "< 0.000001" : (100 * value).toFixed(digits)}\u00a0%`;
  };
  const photos = (count) => `${count} ${count === 1 ? "photo" : "photos"}`;
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // The queue.

  const progress = () => {
    const parts = [];
    if (total > 1 && done < total) parts.push(`${done} of ${photos(total)} done`);
    if (leftOut) parts.push(`left out ${leftOut} ${leftOut === 1 ? "file that is no photo" : "files that are no photos"}`);
    if (empty) parts.push("there was no photo");
    byId("progress").textContent = parts.join("; ");
    byId("progress").hidden = !parts.length;
  };

  const run = async () => {
    if (running) return;
    running = true;
    while (waiting.length) {
      const card = waiting.shift();
      if (card.element.isConnected) await caption(card);
      done += 1;
      progress();
    }
    running = false;
  };

  const enqueue = (card) => {
    card.element.className = "card busy";
    card.part(".caption").textContent = "Waiting";
    card.part(".actions").hidden = true;
    if (done === total) done = total = 0;
    total += 1;
    waiting.push(card);
  };

  const isPhoto = (file) => (file.type.startsWith("image/") && file.type !== "image/svg+xml") || /\.(jpe?g|png|webp|bmp|gif|tiff?|hei[cf]|avif)$/i.test(file.name);

  const add = (files, { all = false } = {}) => {
    const list = [...files].filter((file) => !file.name.startsWith("."));
    const chosen = all ? list : list.filter(isPhoto);
    leftOut = list.length - chosen.length;
    empty = !list.length;
    if (!chosen.length) say(leftOut ? "No photo among these files" : "There was no photo");
    const added = chosen.map(newCard);
    cards.prepend(...added.map((card) => card.element));
    added.forEach(enqueue);
    progress();
    run();
  };

  // A card.

  const newCard = (file) => {
    const element = byId("card").content.firstElementChild.cloneNode(true);
    const card = { file, element, part: (selector) => element.querySelector(selector), url: URL.createObjectURL(file) };
    card.part(".name").textContent = file.webkitRelativePath || file.name;
    card.part("img").alt = file.name;
    card.part(".remove").addEventListener("click", () => remove(card));
    card.part(".again").addEventListener("click", () => { enqueue(card); progress(); run(); card.part(".caption").focus(); });
    card.part(".copy").addEventListener("click", () => copy(card));
    return card;
  };

  // Loads the photo when its turn comes: a folder may have thousands. Resolves to whether the browser can show it.
  const load = (card) => {
    const image = card.part("img");
    card.loaded ??= new Promise((resolve) => {
      image.addEventListener("load", () => { image.hidden = false; resolve(true); }, { once: true });
      image.addEventListener("error", () => resolve(false), { once: true });
      image.src = card.url;
    });
    return card.loaded;
  };

  const remove = (card) => {
    const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
    URL.revokeObjectURL(card.url);
    card.element.remove();
    say(`${card.file.name} removed`);
    (next?.querySelector(".caption") ?? byId("choose")).focus();
  };

  const copy = async (card) => {
    const button = card.part(".copy");
    const text = card.answer.caption;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // beyond localhost a page without TLS has no clipboard
      const field = make("textarea", "unseen", text);
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    say("Copied");
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy the caption"; }, 1500);
  };

  const caption = async (card) => {
    card.part(".caption").textContent = "Looking at the photo …";
    const visible = await load(card);
    let retry = false;
    try {
      if (card.file.size > LARGEST) throw new Error("the photo is larger than 20 MB; choose a smaller one");
      let response;
      try {
        response = await fetch(visible ? "caption" : "caption?preview", { method: "POST", body: card.file });
      } catch {
        retry = true;
        throw new Error("the server does not answer; is captioner serve still running, and the photo still there?");
      }
      const answer = await response.json().catch(() => ({ error: `the server answered with ${response.status}` }));
      if (!response.ok) {
        retry = response.status >= 500;
        throw new Error(answer.error);
      }
      card.answer = card.element.answer = answer;
      show(card);
      say(`${card.file.name}: ${answer.caption || "no word"}`);
    } catch (error) {
      card.element.className = visible ? "card failed" : "card failed blank";
      card.part(".caption").textContent = error.message[0].toUpperCase() + error.message.slice(1);
      card.part(".again").hidden = !retry;
      card.part(".copy").hidden = true;
      card.part(".actions").hidden = false;
      say(`${card.file.name}: ${error.message}`);
    }
  };

  const show = (card) => {
    const { answer, element, part } = card;
    element.className = "card";
    if (answer.photo.preview) {
      part("img").src = answer.photo.preview;
      part("img").hidden = false;
    }
    part("img").alt = answer.caption;
    part(".again").hidden = true;
    part(".copy").hidden = false;
    part(".actions").hidden = false;
    part(".notes").textContent = answer.notes.join(" ");
    part(".notes").hidden = !answer.notes.length;
    showWords(card);
    showBeams(card);
    showSimilar(card);
  };

  const showWords = (card) => {
    const { tokens, attention } = card.answer;
    const line = card.part(".caption");
    line.replaceChildren();
    if (!attention) {
      line.textContent = card.answer.caption || "(no word)";
      return;
    }
    tokens.forEach((text, at) => {
      const word = make("button", text ? "word" : "word end", text.trimStart() || "(end)");
      word.type = "button";
      word.dataset.token = at;
      word.tabIndex = at ? -1 : 0; // Tab reaches one word of a caption, the arrow keys reach the others
      word.setAttribute("aria-pressed", "false");
      if (text.startsWith(" ") || (!text && at)) line.append(" ");
      line.append(word);
    });
    card.part(".hint").textContent = `${matchMedia("(hover: hover)").matches ? "Point at" : "Tap"} a word to see where the model looked.`;
    card.part(".hint").hidden = false;
  };

  const showBeams = (card) => {
    const { beams, search } = card.answer;
    const agreed = beams[0].agreement !== null;
    card.part(".beams").hidden = false;
    for (const column of card.element.querySelectorAll(".optional")) column.hidden = !agreed;
    const rows = beams.map((beam, at) => {
      const row = make("tr", at ? "" : "chosen");
      row.setAttribute("role", "row"); // a narrow page shows rows as grids, which would have no role
      const head = make("th", "", beam.caption || "(no word)");
      head.scope = "row";
      head.setAttribute("role", "rowheader");
      if (!at) head.append(make("span", "unseen", " (chosen)"));
      const figures = [number(beam.score, 2)];
      if (agreed) figures.push(number(beam.agreement, 2), number(beam.total, 2));
      figures.push(percent(beam.probability));
      row.append(head, ...figures.map((figure) => {
        const cell = make("td", "", figure);
        cell.setAttribute("role", "cell");
        return cell;
      }));
      row.hidden = at >= FIRST;
      return row;
    });
    card.part("tbody").replaceChildren(...rows);
    const more = card.part(".more");
    more.hidden = rows.length <= FIRST;
    more.textContent = `Show all ${rows.length}`;
    more.onclick = () => {
      rows.forEach((row) => { row.hidden = false; });
      more.hidden = true;
      card.part(".wide").focus();
    };
    const likelihood = search.length_penalty === 1 ? "score" : `log-probability / tokens ^ ${search.length_penalty}`;
    const total = `${likelihood} + ${search.consensus} × agreement`;
    card.part(".meaning").textContent = "Score: mean log-probability of the words and the end. " + (agreed
      ? `Agreement: CIDEr, 0 to 10, with the captions of similar training photos. Total: ${total}; the highest is chosen.`
      : "The highest is chosen.");
  };

  const showSimilar = (card) => {
    const { similar } = card.answer;
    card.part(".similar").hidden = !similar;
    if (!similar) return;
    card.part(".similar ol").replaceChildren(...similar.slice(0, FIRST).map(({ share, captions }) => {
      const item = make("li");
      const weight = make("b", "", percent(share));
      weight.style.setProperty("--share", share / similar[0].share);
      const list = make("ul");
      list.append(...captions.map((text) => make("li", "", text)));
      item.append(weight, list);
      return item;
    }));
  };

  // Attention: a canvas with one pixel for each place of the grid, enlarged smoothly over the photo.

  const veil = make("canvas");
  veil.setAttribute("aria-hidden", "true");
  let looking = null;

  const hide = () => {
    if (!looking) return;
    looking.classList.remove("looking");
    looking.setAttribute("aria-pressed", "false");
    const element = looking.closest(".card");
    if (element) element.querySelector(".share").hidden = true;
    veil.remove();
    looking = null;
  };

  const look = (word) => {
    if (word === looking) return;
    hide();
    const element = word.closest(".card");
    const { attention, photo } = element.answer;
    const grid = attention[word.dataset.token];
    const [height, width] = [grid.length, grid[0].length];
    const weights = grid.flat();
    const most = Math.max(...weights);
    [veil.width, veil.height] = [width, height];
    const context = veil.getContext("2d");
    const picture = context.createImageData(width, height);
    weights.forEach((weight, at) => {
      picture.data[4 * at + 3] = 255 * DARKEST * (1 - weight / most); // black; the less attention, the more opaque
    });
    context.putImageData(picture, 0, 0);
    place(photo);
    looking = word;
    word.classList.add("looking");
    word.setAttribute("aria-pressed", "true");
    const at = weights.indexOf(most);
    const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
    const where = `${["top", "middle", "bottom"][third(Math.floor(at / width), height)]} ${["left", "centre", "right"][third(at % width, width)]}`;
    const share = element.querySelector(".share");
    share.textContent = `${word.textContent}: most at the ${where}, ${percent(most)} (even: ${percent(1 / weights.length)})`;
    share.hidden = false;
    element.querySelector(".frame").append(veil);
    say(share.textContent);
  };

  // A model that takes the middle square saw nothing of the sides; a preview is what the model saw.
  const place = ({ width, height, fit, preview }) => {
    const square = fit === "crop" && !preview ? Math.min(width, height) : null;
    const [w, h] = square ? [square / width, square / height] : [1, 1];
    Object.assign(veil.style, { left: `${50 * (1 - w)}%`, top: `${50 * (1 - h)}%`, width: `${100 * w}%`, height: `${100 * h}%` });
  };

  const wordAt = (target) => target.closest?.(".word");

  cards.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const word = wordAt(event.target);
    if (word) look(word);
    else if (!looking?.matches(":focus-visible")) hide();
  });
  cards.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  document.addEventListener("click", (event) => {
    const word = wordAt(event.target);
    if (word) look(word);
    else hide();
  });
  cards.addEventListener("focusin", (event) => {
    const word = event.target;
    if (!word.matches(".word")) return;
    for (const other of word.parentElement.querySelectorAll(".word")) other.tabIndex = other === word ? 0 : -1;
    if (word.matches(":focus-visible")) look(word);
  });
  cards.addEventListener("focusout", (event) => { if (event.target === looking) hide(); });
  cards.addEventListener("keydown", (event) => {
    const word = wordAt(event.target);
    if (!word) return;
    const words = [...word.parentElement.querySelectorAll(".word")];
    const at = words.indexOf(word);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: words.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    const other = words[Math.max(0, Math.min(words.length - 1, next))];
    other.focus({ focusVisible: true });
    look(other); // after a click, Firefox does not call the focus visible
  });

  // Where photos come from.

  for (const name of ["choose", "folder", "camera"]) {
    const input = byId(`${name}-input`);
    byId(name).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const files = [...input.files];
      // Browsers give a folder's files in the order of the disk.
      if (name === "folder") files.sort((a, b) => inOrder(a.webkitRelativePath, b.webkitRelativePath));
      add(files, { all: name !== "folder" });
      input.value = "";
    });
  }
  if (!("webkitdirectory" in HTMLInputElement.prototype)) byId("folder").hidden = true;

  // Folders come as entries, which have to be taken before the event ends.
  const filesOf = async (entry) => {
    if (entry.isFile) return new Promise((resolve) => { entry.file((file) => resolve([file]), () => resolve([])); });
    const reader = entry.createReader();
    const entries = [];
    for (;;) { // a browser gives up to 100 entries at a time
      const some = await new Promise((resolve) => { reader.readEntries(resolve, () => resolve([])); });
      if (!some.length) break;
      entries.push(...some);
    }
    const files = [];
    for (const one of entries.sort((a, b) => inOrder(a.name, b.name))) files.push(...(await filesOf(one)));
    return files;
  };
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("over");
  };
  document.addEventListener("dragenter", over);
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  document.addEventListener("drop", async (event) => {
    document.body.classList.remove("over");
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    if (!entries.some((entry) => entry?.isDirectory)) {
      add(event.dataTransfer.files, { all: true });
      return;
    }
    const files = [];
    for (const entry of entries) if (entry) files.push(...(await filesOf(entry)));
    add(files);
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) {
      say("There is no photo in the clipboard");
      return;
    }
    event.preventDefault();
    add(files, { all: true });
  });
})();
