"use strict";
(function () {
  // All text goes through textContent: whatever a model wrote stays text.
  function make(tag, className, text) {
    var node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Tooltips: the nearest point of every curve under the pointer.
  function number(value) {
    if (value === 0) return "0";
    var size = Math.abs(value);
    if (size < 1e-4 || size >= 1e12) return value.toExponential(3);
    return value.toLocaleString("en-US", { maximumSignificantDigits: size >= 1e5 ? 12 : 5, maximumFractionDigits: size >= 1e5 ? 0 : 20 });
  }
  function nearest(points, x, pixel) {
    var low = 0, high = points.length - 1;
    while (high - low > 1) {
      var middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return Math.abs(pixel(points[low][0]) - pixel(x)) <= Math.abs(pixel(points[high][0]) - pixel(x)) ? points[low] : points[high];
  }
  function hover(figure) {
    var data = JSON.parse(figure.querySelector("script.hover").textContent);
    if (!data.series.length) return;
    var tip = make("div", "tip"), guide = make("div", "guide");
    tip.hidden = guide.hidden = true;
    figure.append(guide, tip);
    function leave() { tip.hidden = guide.hidden = true; }
    figure.querySelectorAll("svg").forEach(function (svg) {
      var area = svg.dataset.area.split(" ").map(Number);
      var range = svg.dataset.x.split(" "), low = Number(range[0]), high = Number(range[1]), log = range[2] === "true";
      function place(x) { return log ? Math.log10(x) : x; }
      svg.addEventListener("pointerleave", leave);
      svg.addEventListener("pointermove", function (event) {
        var box = svg.getBoundingClientRect(), frame = figure.getBoundingClientRect();
        var scale = box.width / (svg.viewBox.baseVal.width / 10);
        var at = ((event.clientX - box.left) / scale - area[0]) / (area[2] - area[0]);
        if (at < -0.02 || at > 1.02) return leave();
        var x = low + at * (high - low);
        x = log ? Math.pow(10, x) : x;
        function pixel(value) { return area[0] + (place(value) - low) / (high - low) * (area[2] - area[0]); }
        var rows = [], shown = null;
        data.series.forEach(function (series) {
          var point = nearest(series.points, x, pixel);
          if (Math.abs(pixel(point[0]) - pixel(x)) * scale > 18) return;
          if (shown === null || Math.abs(pixel(point[0]) - pixel(x)) < Math.abs(pixel(shown) - pixel(x))) shown = point[0];
          rows.push([series, point]);
        });
        if (!rows.length) return leave();
        tip.textContent = "";
        tip.append(make("div", "", data.x.replace(/,.*| \(.*/, "") + " " + number(shown)));
        rows.slice(0, 16).forEach(function (row) {
          var line = make("div"), mark = make("i");
          mark.style.background = row[0].color;
          line.append(mark, document.createTextNode(row[0].label + ": " + number(row[1][1]) + (row[1][0] === shown ? "" : " (at " + number(row[1][0]) + ")")));
          tip.append(line);
        });
        tip.hidden = guide.hidden = false;
        var left = box.left - frame.left + pixel(shown) * scale;
        guide.style.left = left + "px";
        guide.style.top = box.top - frame.top + area[1] * scale + "px";
        guide.style.height = (area[3] - area[1]) * scale + "px";
        tip.style.top = box.top - frame.top + area[1] * scale + 6 + "px";
        tip.style.left = (left > frame.width / 2 ? Math.max(4, left - tip.offsetWidth - 10) : left + 10) + "px";
      });
    });
  }
  document.querySelectorAll("figure").forEach(hover);

  // The browser of answers.
  var holder = document.getElementById("answers");
  if (!holder) return;
  var sources = JSON.parse(holder.textContent), page = 50, shown = page, matching = [];
  var byId = function (id) { return document.getElementById(id); };
  var source = byId("source"), verdict = byId("verdict"), search = byId("search"), list = byId("list");
  sources.forEach(function (entry, index) {
    var option = make("option", "", entry.name);
    option.value = index;
    source.append(option);
  });
  function item(row) {
    var details = make("details", "answer"), summary = make("summary");
    summary.append(make("span", "badge " + row[4], row[4]), document.createTextNode(row[0].slice(0, 300)));
    details.append(summary);
    // The inside is made when it is opened, so that thousands of rows cost nothing.
    details.addEventListener("toggle", function () {
      if (details.childNodes.length > 1) return;
      var pairs = make("dl");
      [["question", row[0]], ["completion", row[1]], ["prediction", row[2] === null ? "none found" : row[2]], ["ground truth", row[3]]].forEach(function (pair) {
        pairs.append(make("dt", "", pair[0]), make("dd", "text", pair[1]));
      });
      details.append(pairs);
    });
    return details;
  }
  function show() {
    list.textContent = "";
    matching.slice(0, shown).forEach(function (row) { list.append(item(row)); });
    byId("more").hidden = matching.length <= shown;
    var entry = sources[Number(source.value)];
    byId("count").textContent = matching.length.toLocaleString("en-US") + " of " + entry.rows.length.toLocaleString("en-US") + " answers" +
      (entry.rows.length < entry.total ? " (" + entry.total.toLocaleString("en-US") + " in the file)" : "");
  }
  function filter() {
    var words = search.value.toLowerCase(), wanted = verdict.value;
    matching = sources[Number(source.value)].rows.filter(function (row) {
      return (!wanted || row[4] === wanted) && (!words || (row[0] + "\n" + row[1] + "\n" + row[2] + "\n" + row[3]).toLowerCase().includes(words));
    });
    shown = page;
    show();
  }
  source.addEventListener("change", filter);
  verdict.addEventListener("change", filter);
  search.addEventListener("input", filter);
  byId("more").addEventListener("click", function () { shown += page; show(); });
  byId("samples").hidden = true;
  byId("browser").hidden = false;
  filter();
})();
