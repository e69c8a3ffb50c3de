// What the pages do without asking the server: the look, the address bar, saving a plot.
(() => {
  "use strict";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("autonat-look"); } catch { return null; } };
  const isDark = () => (remembered() ?? (system.matches ? "dark" : "light")) === "dark";
  const paint = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    // A finger that drags means to scroll the page.
    return (isDark() ? "dark" : "light") + (matchMedia("(pointer: coarse)").matches ? " touch" : "");
  };
  paint();
  system.addEventListener("change", () => dash_clientside.set_props("look", {data: paint()}));

  window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {autonat: {
    look: clicks => {
      if (clicks) {
        try { localStorage.setItem("autonat-look", isDark() ? "light" : "dark"); } catch { /* a private window */ }
      }
      return paint();
    },
    // The settings of a page go into its address, so that it can be shared; the page is not loaded again.
    share: () => {
      const query = new URLSearchParams();
      const inputs = dash_clientside.callback_context.inputs_list.flat();
      for (const {id, value} of inputs) {
        const text = Array.isArray(value) ? value.join(",") : value ?? "";
        if (text !== "") query.set(id.name, text);
      }
      if (inputs.length) {
        const text = query.toString().replaceAll("%2C", ",");
        history.replaceState(history.state, "", location.pathname + (text ? "?" + text : ""));
      }
      return dash_clientside.no_update;
    },
    // A new figure takes over what a person did to the one before: zoom and hidden traces. Plotly would do so by its
    // uirevision, but Dash writes a zoom into its own copy of the figure, after which Plotly takes it for the server's.
    carry: (fresh, id) => {
      if (!fresh) return dash_clientside.no_update;
      const section = [...document.querySelectorAll(".plot")].find(
        part => part.querySelector(`[data-plot="${CSS.escape(id.name)}"]`));
      const plot = section?.querySelector(".js-plotly-plot");
      const before = section?.served;
      const figure = structuredClone(fresh);
      if (plot && before && before.layout.uirevision === fresh.layout.uirevision) {
        for (const [key, axis] of Object.entries(plot.layout)) {
          if (!/^[xy]axis\d*$/.test(key) || !axis?.range) continue;
          const served = before.layout[key]?.range;
          const own = served ? axis.autorange !== true && String(served) !== String(axis.range) : axis.autorange === false;
          if (own) figure.layout[key] = {...figure.layout[key], range: [...axis.range], autorange: false};
        }
        const hidden = new Set(plot.data.filter(trace => trace.visible === "legendonly").map(trace => trace.name));
        for (const trace of figure.data) if (hidden.has(trace.name)) trace.visible = "legendonly";
      }
      if (section) section.served = fresh;
      return figure;
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
