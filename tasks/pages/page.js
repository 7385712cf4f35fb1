"use strict";
const make = (tag, text, kind) => {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  if (kind) one.className = kind;
  return one;
};

// Curves: what is said at the place of the pointer.
for (const figure of document.querySelectorAll("figure[data-read]")) {
  const read = JSON.parse(figure.dataset.read), says = figure.querySelector("figcaption"), before = says.textContent;
  const picture = figure.querySelector("svg");
  picture.addEventListener("pointermove", event => {
    const box = picture.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
    let best = read[0];
    for (const one of read) if (Math.abs(one[0] - at) < Math.abs(best[0] - at)) best = one;
    says.textContent = best[1];
  });
  picture.addEventListener("pointerleave", () => { says.textContent = before; });
}

// Points of a picture: what they are is said above it.
for (const one of document.querySelectorAll("svg .tip")) {
  const says = document.getElementById("point");
  for (const kind of ["pointerenter", "focus"]) one.addEventListener(kind, () => { if (says) says.textContent = one.dataset.tip; });
}

// Tables: a click on a head sorts by it, numbers as numbers.
const number = text => { const found = text.replace(/[\s,]/g, "").match(/^[+−-]?\d+(\.\d+)?(e[+-]?\d+)?/i); return found ? parseFloat(found[0].replace("−", "-")) : NaN; };
for (const table of document.querySelectorAll("table.sorts")) {
  table.querySelectorAll("th").forEach((head, column) => {
    const button = make("button", head.textContent);
    button.title = "sort";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
      const key = row => row.cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [number(key(a)), number(key(b))];
        if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;  // what has no value comes last, either way
        return (up ? 1 : -1) * (isNaN(x) ? key(a).localeCompare(key(b)) : x - y);
      };
      [...body.rows].sort(order).forEach(row => body.append(row));
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  field.closest(".filter").hidden = false;  // without a script it would do nothing
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}

// On paper nothing can be unfolded.
const folded = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; folded.push(one); }
});
addEventListener("afterprint", () => { for (const one of folded.splice(0)) one.open = false; });

// Answers of both models.
const data = document.getElementById("items-data");
if (data) {
  const told = JSON.parse(data.textContent), all = told.items, pick = id => document.getElementById(id);
  const PER_PAGE = 20, MOST_CELLS = 4e6;
  const turns = document.querySelectorAll("[data-turn]");
  const whole = all.length + told.outside;
  let page = 0, chosen = [];
  const words = text => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
  // The longest common subsequence of words; [text, same] pieces of each side.
  const difference = (one, two) => {
    const [a, b] = [words(one), words(two)];
    let from = 0, ends = 0;
    while (from < a.length && from < b.length && a[from] === b[from]) from++;
    while (ends < a.length - from && ends < b.length - from && a[a.length - 1 - ends] === b[b.length - 1 - ends]) ends++;
    const x = a.slice(from, a.length - ends), y = b.slice(from, b.length - ends), wide = y.length + 1;
    if (x.length * y.length > MOST_CELLS) return [[[one, true]], [[two, true]]];
    const best = new Uint32Array((x.length + 1) * wide);
    for (let i = x.length - 1; i >= 0; i--) for (let j = y.length - 1; j >= 0; j--)
      best[i * wide + j] = x[i] === y[j] ? best[(i + 1) * wide + j + 1] + 1 : Math.max(best[(i + 1) * wide + j], best[i * wide + j + 1]);
    const left = [[a.slice(0, from).join(""), true]], right = [[b.slice(0, from).join(""), true]];
    const add = (side, text, same) => { const last = side[side.length - 1]; if (last[1] === same) last[0] += text; else side.push([text, same]); };
    let i = 0, j = 0;
    while (i < x.length || j < y.length) {
      if (i < x.length && j < y.length && x[i] === y[j]) { add(left, x[i++], true); add(right, y[j++], true); }
      else if (j < y.length && (i === x.length || best[i * wide + j + 1] >= best[(i + 1) * wide + j])) add(right, y[j++], false);
      else add(left, x[i++], false);
    }
    add(left, a.slice(a.length - ends).join(""), true);
    add(right, b.slice(b.length - ends).join(""), true);
    return [left, right];
  };
  const score = value => value === null ? "no score" : String(+value.toPrecision(3));
  const card = one => {
    const made = make("article", undefined, "item " + one.change), head = make("h3");
    head.append(make("b", {same: "unchanged", unscored: "without a score"}[one.change] || one.change),
      ` ${one.suite} · ${one.task} · ${one.id} · ${score(one.scores[0])} → ${score(one.scores[1])}`);
    made.append(head, make("div", "prompt", "label"), make("pre", one.prompt));
    if (one.target) made.append(make("div", "target", "label"), make("pre", one.target));
    const sides = make("div", undefined, "sides"), pieces = difference(...one.answers);
    pieces.forEach((some, side) => {
      const box = make("div"), text = make("pre");
      for (const [words, same] of some) text.append(same ? words : make("mark", words));
      box.append(make("div", told.names[side], "label"), text);
      if (one.why[side]) box.append(make("div", "why points are missing: " + one.why[side], "label"));
      sides.append(box);
    });
    made.append(sides);
    return made;
  };
  const marks = (one, flag, before, after) => one[flag] && (before === null || one[flag][0] === before) && (after === null || one[flag][1] === after);
  const tests = {
    refusal: {newly: one => marks(one, "refused", 0, 1), no_longer: one => marks(one, "refused", 1, 0), any: one => marks(one, "refused", null, 1)},
    form: {newly: one => marks(one, "form", 1, 0), no_longer: one => marks(one, "form", 0, 1), any: one => marks(one, "form", null, 0)},
    size: {longer: one => one.answers[1].length > 2 * one.answers[0].length, shorter: one => 2 * one.answers[1].length < one.answers[0].length},
  };
  const show = () => {
    const pages = Math.max(1, Math.ceil(chosen.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    pick("items").replaceChildren(...chosen.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
    pick("count").textContent = `${chosen.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} items here`;
    for (const one of document.querySelectorAll(".where")) one.textContent = `page ${page + 1} of ${pages}`;
    for (const one of turns) one.disabled = +one.dataset.turn < 0 ? page === 0 : page === pages - 1;
    pick("below").hidden = pages === 1;
    pick("printed").textContent = `Printed: ${pick("items").children.length} of ${whole.toLocaleString("en")} items; the page itself has all of them.`;
  };
  const choose = () => {
    const [suite, change, text] = ["suite", "change", "text"].map(id => pick(id).value), wanted = text.toLowerCase();
    const kinds = Object.keys(tests).map(id => tests[id][pick(id).value]).filter(Boolean);
    chosen = all.filter(one => (!suite || one.suite === suite)
      && (!change || one.change === change || (change === "changed" && (one.change === "lost" || one.change === "gained")))
      && kinds.every(fits => fits(one))
      && (!wanted || [one.prompt, one.id, ...one.answers].some(part => part.toLowerCase().includes(wanted))));
    page = 0;
    show();
  };
  for (const id of ["suite", "change", "refusal", "form", "size", "text"])
    for (const kind of ["input", "change"]) pick(id).addEventListener(kind, choose);
  for (const one of turns) one.addEventListener("click", () => {
    page += +one.dataset.turn;
    show();
    if (one.closest("#below")) pick("answers").scrollIntoView();
  });
  const more = pick("load");
  window.sftItems = some => { all.push(...some); };
  if (more) more.addEventListener("click", () => {
    const next = told.files.shift();
    if (!next) { more.remove(); choose(); return; }
    more.disabled = true;
    const file = make("script");
    file.src = next;
    file.onload = () => { file.remove(); more.click(); };
    file.onerror = () => { pick("absent").hidden = false; more.remove(); choose(); };
    document.head.append(file);
    more.disabled = false;
  });
  pick("answers-of-both").hidden = false;
  choose();
}
