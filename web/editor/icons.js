// The tools' icons: paths on a grid of 16 x 16, drawn as lines.

const PATHS = {
    undo: "M3 6h6.5a3.5 3.5 0 0 1 0 7H6M3 6l3-3M3 6l3 3",
    redo: "M13 6H6.5a3.5 3.5 0 0 0 0 7H10M13 6l-3-3M13 6l-3 3",
    add: "M6 4.5a2 2 0 1 1 .01 0M2.5 13c0-3 1.5-4.5 3.5-4.5S9.5 10 9.5 13M12 5v5M9.5 7.5h5",
    take: "M8 2v7M5 6.5l3 3 3-3M3 11v2.5h10V11",
    zoomOut: "M3 8h10",
    fit: "M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3",
    zoomIn: "M3 8h10M8 3v10",
    grid: "M2.5 2.5h11v11h-11zM2.5 6.2h11M2.5 9.8h11M6.2 2.5v11M9.8 2.5v11",
    snaps: "M4 2.5v6a4 4 0 0 0 8 0v-6M4 5h2.5v3.5a1.5 1.5 0 0 0 3 0V5H12M6.5 5V2.5M9.5 5V2.5",
    fullScreen: "M9.5 2.5h4v4M13.5 2.5L9 7M6.5 13.5h-4v-4M2.5 13.5L7 9",
    rename: "M3 13l.8-3L10.5 3.3a1.4 1.4 0 0 1 2 2L5.8 12.2zM9.5 4.5l2 2",
    export: "M8 10V2M5 4.5L8 2l3 2.5M3 9v4.5h10V9",
    bend: "M7 2.5L12 8l-5 5.5M6 8H1.5M3.5 6l-2 2 2 2",
    handLeft: "M3.5 6.5A5 5 0 1 1 3.5 10M3 3v3.5h3.5",
    handRight: "M12.5 6.5a5 5 0 1 0 0 3.5M13 3v3.5H9.5",
    flip: "M8 2v12M6 5L2.5 11H6zM10 5l3.5 6H10z",
    help: "M5.5 6a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .7-1 1.7M8 12.5v.2",
    duplicate: "M6 6h7v7H6zM10 6V3H3v7h3",
    remove: "M3.5 4.5h9M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5",
    mirror: "M8 2.5v11M6 5L2.5 11H6zM10 5l3.5 6H10z",
    front: "M3 3h7v7H3zM12.5 6v6.5H6M8 8.5l-1.5-2-1.5 2",
    back: "M6 6h7v7H6zM3.5 10V3.5H10M8 9l1.5 2 1.5-2",
    lengths: "M5 9.5H4a2.5 2.5 0 0 1 0-5h2.5A2.5 2.5 0 0 1 9 7" +
        "M11 6.5h1a2.5 2.5 0 0 1 0 5H9.5A2.5 2.5 0 0 1 7 9",
    joint: "M2 8c1.6-2.7 3.6-4 6-4s4.4 1.3 6 4c-1.6 2.7-3.6 4-6 4S3.6 10.7 2 8" +
        "M6.5 8a1.5 1.5 0 1 1 0 .01",
    hands: "M5 9V4.5M7 8V3M9 8V3.5M11 8.5V5M11 8.5c0 3-1 4.5-3 4.5-1.8 0-2.8-1-3.5-2.5L3 8",
    feet: "M6 2.5V9.5c1 0 2.5.8 3.5 1.3 1.5.7 3.5.7 3.5 2.7H3.5v-4V2.5",
    face: "M8 2.5a5.5 5.5 0 1 0 .01 0M6 6.5v.5M10 6.5v.5M5.5 9.5c1.5 1.8 3.5 1.8 5 0",
}

export const icon = (name) =>
    `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${PATHS[name]}"/></svg>`
