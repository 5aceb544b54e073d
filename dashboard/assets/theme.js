// Sets the theme before anything is drawn; the toggle, the pause button and links within figures.
(function () {
    "use strict";
    const root = document.documentElement;
    const key = "gigawatch-theme";
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const stored = () => {
        try { return localStorage.getItem(key); } catch { return null; }
    };
    const apply = () => { root.dataset.theme = stored() || (system.matches ? "dark" : "light"); };
    apply();
    system.addEventListener("change", apply);

    window.dash_clientside = Object.assign({}, window.dash_clientside, {
        gigawatch: {
            theme: (clicks) => {
                if (clicks) {
                    const next = root.dataset.theme === "dark" ? "light" : "dark";
                    try { localStorage.setItem(key, next); } catch { /* it then lasts until the page is left */ }
                    root.dataset.theme = next;
                }
                return root.dataset.theme;
            },
            pause: (clicks) => {
                const paused = Boolean(clicks && clicks % 2);
                return [paused, paused ? "Resume" : "Pause", String(paused)];
            },
            go: (click) => {
                const target = click && click.points[0] && click.points[0].customdata;
                return target || window.dash_clientside.no_update;
            },
        },
    });
})();
