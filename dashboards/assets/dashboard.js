// What the pages do beside Dash: the look, the address bar, drawing and saving plots.
(() => {
  "use strict";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)"), narrow = matchMedia("(max-width: 34rem)");
  const huge = matchMedia("(min-width: 180rem)");
  const remembered = () => { try { return localStorage.getItem("autonat-look"); } catch { return null; } };
  const isDark = () => (remembered() ?? (system.matches ? "dark" : "light")) === "dark";
  const paint = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    // A finger that drags means to scroll the page.
    return (isDark() ? "dark" : "light") + (touch.matches ? " touch" : "") + (narrow.matches ? " narrow" : "");
  };
  paint();
  for (const query of [system, touch, narrow]) {
    query.addEventListener("change", () => dash_clientside.set_props("look", {data: paint()}));
  }

  // Plots. Dash's own component would draw each of them three times: empty, filled, and resized.
  const ask = (path, query, look) => {
    const question = new URLSearchParams(query);
    question.set("path", path);
    question.set("look", look);
    return fetch("/figures?" + question).then(answer => answer.ok ? answer.json() : null).catch(() => null);
  };
  // Asked for at once, while the scripts are read: the server works meanwhile.
  let early = {path: location.pathname, look: paint(), answer: ask(location.pathname, location.search, paint())};
  const plotly = new Promise(resolve => {
    if (window.Plotly) resolve();
    else document.getElementById("plotly").addEventListener("load", resolve);
  });
  const widths = new ResizeObserver(changes => {
    for (const {target, contentRect} of changes) {
      const plot = target.firstElementChild;
      if (!target.isConnected) {
        widths.unobserve(target);
        if (plot) Plotly.purge(plot);
      } else if (plot?._fullLayout && contentRect.width && Math.abs(contentRect.width - plot._fullLayout.width) >= 1) {
        Plotly.Plots.resize(plot);
      }
    }
  });
  const show = async (place, figure) => {
    let plot = place.firstElementChild;
    if (plot && plot.dataset.name !== place.dataset.name) {  // a place is used again for another view
      Plotly.purge(plot);
      plot.remove();
      plot = null;
    }
    if (!plot) {
      plot = place.appendChild(document.createElement("div"));
      plot.dataset.name = place.dataset.name;
      widths.observe(place);
    }
    // By its name a trace is known again when others come before it; what is hidden stays hidden.
    const seen = {};
    for (const trace of figure.data) {
      const name = trace.name ?? "";
      seen[name] = (seen[name] ?? 0) + 1;
      // Plotly writes it into selectors.
      trace.uid = `t${name.replace(/[^a-z0-9]/gi, each => `_${each.charCodeAt().toString(16)}_`)}-${seen[name]}`;
    }
    if (huge.matches) {
      figure.layout.height *= 1.5;
      figure.layout.font = {size: 18};
      for (const each of figure.layout.annotations ?? []) each.font = {...each.font, size: 17};
    }
    await Plotly.react(plot, figure.data, figure.layout, {displayModeBar: false});
  };
  const turnTo = () => new Promise(resolve => setTimeout(resolve));
  let busy = false, waiting = null;
  const draw = async wanted => {
    waiting = wanted;
    if (busy) return;  // the latest question alone is asked when the one before is answered
    busy = true;
    await plotly;
    while (waiting) {
      const {path, query, look, version} = waiting, mark = [path, query, look].join(" ");
      waiting = null;
      const places = () => [...document.querySelectorAll(".place")];
      if (places().every(place => place.firstElementChild && place.mark === mark && place.version === version)) continue;
      const here = early?.path === path && early.look === look ? early.answer : null;
      early = null;
      const answer = await (here ?? ask(path, query, look));
      if (!answer || path !== location.pathname) continue;
      for (const place of places()) {
        const figure = answer.figures[place.dataset.name];
        if (!figure) continue;
        await show(place, figure).catch(console.error);
        Object.assign(place, {mark, version: answer.version});
        await turnTo();
      }
    }
    busy = false;
  };

  const queryOf = inputs => {
    const query = new URLSearchParams();
    for (const {id, value} of inputs) {
      const text = Array.isArray(value) ? value.join(",") : value ?? "";
      if (text !== "") query.set(id.name, text);
    }
    return query;
  };

  window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {autonat: {
    look: clicks => {
      if (clicks) {
        try { localStorage.setItem("autonat-look", isDark() ? "light" : "dark"); } catch { /* a private window */ }
      }
      return paint();
    },
    // The settings of a page go into its address, so that it can be shared; the page is not loaded again.
    share: () => {
      const inputs = dash_clientside.callback_context.inputs_list.flat();
      if (inputs.length) {
        const text = queryOf(inputs).toString().replaceAll("%2C", ",");
        history.replaceState(history.state, "", location.pathname + (text ? "?" + text : ""));
      }
      return dash_clientside.no_update;
    },
    // Draws the page's figures where something about them is new; gives the addresses of their data.
    draw: (controls, sliders, version, look) => {
      const {inputs_list, outputs_list} = dash_clientside.callback_context;
      const query = queryOf(inputs_list.slice(0, 2).flat());
      if (look) draw({path: location.pathname, query: query.toString(), look, version: version ?? null});
      const data = new URLSearchParams();
      const study = decodeURIComponent(location.pathname.split("/")[2] ?? "");
      if (study) data.set("study", study);
      if (query.get("studies")) data.set("studies", query.get("studies"));
      return outputs_list.map(({id}) => `/csv/${id.name}.csv?${data}`);
    },
    compare: picks => {
      const names = picks.flat();
      return "/compare" + (names.length ? "?studies=" + names.map(encodeURIComponent).join(",") : "");
    },
  }});

  document.addEventListener("click", event => {
    const button = event.target.closest("[data-does]");
    if (!button) return;
    const plot = button.closest(".plot").querySelector(".js-plotly-plot");
    if (!plot) return;
    if (button.dataset.does === "reset") {
      const axes = Object.keys(plot.layout).filter(key => /^[xy]axis\d*$/.test(key));
      Plotly.relayout(plot, Object.fromEntries(axes.map(axis => [axis + ".autorange", true])));
      return;
    }
    const {width, height} = plot.getBoundingClientRect();
    const background = getComputedStyle(document.body).backgroundColor;
    const figure = {data: plot.data, layout: {...plot.layout, paper_bgcolor: background, width, height}};
    const name = decodeURIComponent(location.pathname).split("/").filter(Boolean).at(-1);
    Plotly.downloadImage(figure, {
      format: button.dataset.does, width, height, scale: button.dataset.does === "png" ? 2 : 1,
      filename: `${name}-${button.dataset.plot}`,
    });
  });
})();
