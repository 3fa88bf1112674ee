// The widget of the Pose Editor node. Its value is the saved text of the people, which the node
// also reads without any of this.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { PoseEditor } from "./editor/editor.js"

const WIDGET = "VITRUVIAN_POSE_EDITOR" // as nodes/pose_editor.py calls it
const [NODE_WIDTH, NODE_HEIGHT] = [480, 760]
const LEAST_HEIGHT = 420
const here = (file) => new URL(file, import.meta.url).href

let resources = null

/** What the first editor needs: Konva and the library of poses. */
function load() {
    resources ??= (async () => {
        keepTouches()
        // browsers may keep these two kinds of file: one is asked for anew, one names its version
        const poses = fetch(here("./poses.json"), { cache: "no-cache" })
        const konva = await import("./vendor/konva.mjs?10.9.1")
        return { konva, poses: await (await poses).json() }
    })()
    return resources
}

/** The editor's stylesheet, which stays inside the editor. */
function looks() {
    const href = here("./editor/editor.css")
    return Object.assign(document.createElement("link"), { rel: "stylesheet", href })
}

/**
 * Two fingers on an editor zoom it and not the graph too. ComfyUI hears touches on their way down,
 * so they are stopped above it; the editor itself listens to pointers.
 */
function keepTouches() {
    const stop = (event) => event.target.closest?.(".vitruvian-pose") && event.stopPropagation()
    for (const name of ["touchstart", "touchmove", "touchend", "touchcancel"])
        window.addEventListener(name, stop, { capture: true, passive: true })
}

/** Runs `extra` after what the node or widget already does then. */
function after(owner, name, extra) {
    const before = owner[name]
    owner[name] = function (...given) {
        const result = before?.apply(this, given)
        extra(...given)
        return result
    }
}

function makeWidget(node, name) {
    const sides = ["canvas_width", "canvas_height"].map((side) => node.widgets.find((w) => w.name === side))
    const editor = new PoseEditor({
        size: () => sides.map((side) => Math.max(16, Math.round(Number(side?.value) || 512))),
        onEdit: () => {
            widget.callback?.(session.value)
            node.graph?.setDirtyCanvas?.(true, true)
        },
        resources: load(),
    })
    editor.element.prepend(looks())
    const { session } = editor
    const widget = node.addDOMWidget(name, WIDGET, editor.element, {
        getValue: () => session.value,
        setValue: (value) => (session.value = value),
        getMinHeight: () => LEAST_HEIGHT,
        hideOnZoom: false,
    })
    for (const side of sides) if (side) after(side, "callback", () => editor.render())
    after(node, "onExecuted", (output) => arrived(editor, output))
    after(node, "onConfigure", () => editor.render())
    after(node, "onRemoved", () => editor.canvas.dispose())
    return { widget, minWidth: NODE_WIDTH, minHeight: NODE_HEIGHT }
}

/** The connected pose and photograph, as the node sends them with a run. */
function arrived(editor, output) {
    const [frame] = output?.vitruvian_pose ?? []
    const [file] = output?.vitruvian_background ?? []
    if (frame) editor.session.arrivedPose(frame)
    if (!file) return editor.arrivedPhoto(null)
    const photo = new Image()
    photo.onload = () => editor.arrivedPhoto(photo)
    photo.src = api.apiURL(`/view?${new URLSearchParams(file)}`)
}

app.registerExtension({
    name: "Vitruvian.PoseEditor",
    getCustomWidgets: () => ({ [WIDGET]: makeWidget }),
})
