// Sets the theme before anything is drawn; then what pages do without the server: the theme's and the pause's
// buttons, links within figures, the age of the figures, which action is wanted, and what is said when the server is away.
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
    system.addEventListener("change", () => {
        apply();
        // The figures' colours come from the server.
        if (window.dash_clientside.set_props) window.dash_clientside.set_props("theme", { data: root.dataset.theme });
    });

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
                return [paused ? 0 : -1, paused ? "Resume" : "Pause", String(paused)];
            },
            go: (click) => {
                const target = click && click.points[0] && click.points[0].customdata;
                return target || window.dash_clientside.no_update;
            },
        },
    });

    // What a refresh replaces may hold the focus: it goes to what came in its place.
    const name = (element) => element.textContent.replace(", chosen", "");
    let focused = null;
    document.addEventListener("focusin", (event) => { focused = event.target; });
    // Browsers tell of it before they take an element away: whether it left is known a moment later.
    document.addEventListener("focusout", (event) => setTimeout(() => {
        if (focused === event.target && focused.isConnected) focused = null;
    }));
    // And what was opened in it is opened again: by the part of the page, the row's first link and its own words.
    const opened = new Set();
    const place = (details) => {
        const part = details.closest("[id^=live-]"), row = details.closest("tr"), link = row && row.querySelector("a");
        const said = details.querySelector("summary").textContent.replace(/\d+/g, "");
        return part && [location.pathname, part.id, link ? link.href : "", said].join("\n");
    };
    // The event does not bubble.
    document.addEventListener("toggle", (event) => {
        const its = event.target.tagName === "DETAILS" && place(event.target);
        if (its) opened[event.target.open ? "add" : "delete"](its);
    }, true);
    document.addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
        for (const details of document.querySelectorAll("main details:not([open])")) {
            if (opened.has(place(details))) details.open = true;
        }
        // The page's name without its badges is that of the window.
        const heading = document.querySelector("main h1");
        const title = [...(heading ? heading.childNodes : [])]
            .filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join("").trim();
        const firing = document.querySelector("nav [data-alerts]");
        const whole = `${firing ? `(${firing.dataset.alerts}) ` : ""}${title} – Gigawatch`;
        if (title && document.title !== whole) document.title = whole;
        if (!focused || focused.isConnected || document.activeElement !== document.body) return;
        const like = [...document.querySelectorAll(focused.id ? `#${CSS.escape(focused.id)}` : focused.tagName)];
        const heir = like.find((element) => element.href === focused.href && name(element) === name(focused))
            || like.find((element) => name(element) === name(focused));
        // What comes may come in parts: until its heir is there, it is waited for.
        if (!heir) return;
        focused = null;
        heir.focus({ preventScroll: true });
    }).observe(document.body, { attributeFilter: ["data-alerts"], childList: true, subtree: true }));

    // What somebody wants done: a button or a form says what, by its data-act and data-of, and a form its fields.
    let last = "", since = 0;
    const want = (element, fields) => {
        const { act, of } = element.dataset;
        // A double click is one wish.
        if (last === `${act} ${of}` && performance.now() - since < 700) return;
        [last, since] = [`${act} ${of}`, performance.now()];
        window.dash_clientside.set_props("wanted", { data: { ...fields, act, of: of || "", at: Date.now() } });
    };
    document.addEventListener("click", (event) => {
        const button = event.target.closest("button[data-act]");
        if (button && !button.disabled) want(button, {});
    });
    document.addEventListener("submit", (event) => {
        if (!event.target.dataset.act) return;
        event.preventDefault();
        want(event.target, Object.fromEntries(new FormData(event.target)));
    });

    // Between refreshes the age goes on; each badge with data-age says how old its figures were when it came.
    const words = (seconds) => {
        if (seconds < 60) return `${Math.floor(seconds)}\u00a0s`;
        return seconds < 3600 ? `${Math.floor(seconds / 60)}\u00a0min` : `${Math.floor(seconds / 3600)}\u00a0h`;
    };
    let came = 0, newest = null;
    setInterval(() => {
        const badge = document.querySelector("[data-age]");
        const text = badge && badge.querySelector(".age");
        if (!text) return;
        if (badge.dataset.key !== newest) {
            newest = badge.dataset.key;
            came = performance.now() - 1000 * Number(badge.dataset.age);
        }
        text.textContent = `${words((performance.now() - came) / 1000)} old`;
    }, 1000);

    // A session that ended leads to the login; a server that does not answer is said, and looked for again.
    const ask = window.fetch;
    window.fetch = async (...request) => {
        const ours = String(request[0] && request[0].url || request[0]).includes("_dash-update-component");
        const refresh = ours && String(request[1] && request[1].body).includes("page.children");
        const place = location.href;
        try {
            const answer = await ask(...request);
            // A refresh of a page that was left: its parts must not reach the next page's of the same name.
            if (refresh && answer.ok && place !== location.href) return new Response(null, { status: 204 });
            if (ours && answer.status === 401) {
                location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
            } else if (ours) {
                delete root.dataset.offline;
            }
            return answer;
        } catch (error) {
            if (ours && error.name !== "AbortError") root.dataset.offline = "";
            throw error;
        }
    };
})();
