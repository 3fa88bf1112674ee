// The widget of the Pose Editor node. Its value is the saved text of the people, which the node
// also reads without any of this.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { connectedFile, putBehind } from "./editor/background.js"
import { sketch } from "./editor/drawing.js"
import { PoseEditor } from "./editor/editor.js"
import { say, speak } from "./editor/words.js"

const WIDGET = "VITRUVIAN_POSE_EDITOR" // as nodes/pose_editor.py calls it
const [NODE_WIDTH, NODE_HEIGHT] = [480, 860]
const LEAST_HEIGHT = 420
const PAUSE = 500 // ms without a letter after which a prompt counts as written
const JUST_NOW = 200 // ms
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

/**
 * Makes edits undo steps of the graph, which is also what ComfyUI keeps for a reload and for the
 * other tabs. It looks at the graph where a change ends; in the editor it would notice none.
 */
function stepsOf(element) {
    let timer = null
    const step = () => {
        clearTimeout(timer)
        timer = null
        app.canvas.emitBeforeChange()
        app.canvas.emitAfterChange()
    }
    const finish = () => timer !== null && step()
    const isShortcut = (event) => event.ctrlKey || event.metaKey || /^F\d/.test(event.key)
    const isLetter = (event) => event.target.tagName === "TEXTAREA"
    // the steps that go on end here, before ComfyUI acts on the same event
    element.addEventListener("focusout", finish)
    element.addEventListener("keyup", (event) => !isLetter(event) && finish())
    element.addEventListener("keydown", (event) => isShortcut(event) && finish(), true)
    return (goesOn) => {
        if (!goesOn) return step()
        clearTimeout(timer)
        timer = setTimeout(step, PAUSE)
    }
}

/** What editors showed when their nodes were last there: undo makes all nodes of a graph anew. */
const memories = new Map()
const placeOf = ({ id, graph }) => `${(graph?.rootGraph ?? graph)?.id} ${graph?.id} ${id}`

function remember(place, editor) {
    // ComfyUI takes the keyboard a moment before it takes the node
    const focused = performance.now() - editor.lastFocused < JUST_NOW
    memories.set(place, { ...editor.memory, focused })
}

function recall(place, editor) {
    const memory = memories.get(place)
    if (!memory) return editor.render()
    memories.delete(place)
    editor.memory = memory
    if (memory.focused) focusWhenShown(editor)
}

/** Gives the keyboard back unless somebody takes it who is not the graph's canvas. */
function focusWhenShown(editor, frames = 30) {
    const { activeElement } = document
    const free = [document.body, app.canvas.canvas, null].includes(activeElement)
    if (!free && !activeElement.closest(".vitruvian-pose")) return
    if (editor.element.isConnected && !editor.element.contains(activeElement)) editor.focus()
    if (frames) requestAnimationFrame(() => focusWhenShown(editor, frames - 1))
}

/** The editors by their elements, and the nodes they belong to. */
const owners = new Map()
const isShown = (node) => app.canvas.graph?.getNodeById(node.id) === node

/**
 * Puts each editor where the new renderer has left that of an earlier node: it keeps what it shows
 * when one node takes another's number, by undo, in another tab or in a subgraph.
 */
function takeSeats() {
    for (const [element, { node }] of owners) {
        if (element.isConnected || !isShown(node)) continue
        const isSeat = (other) => {
            const owner = owners.get(other)?.node
            return owner?.id === node.id && !isShown(owner)
        }
        const seat = [...document.querySelectorAll(".vitruvian-pose")].find(isSeat)
        seat?.replaceWith(element)
    }
}

/** takeSeats, once the front end has made its own changes to the page. */
const takeSeatsSoon = () => setTimeout(() => requestAnimationFrame(takeSeats))

/** Another graph is shown, one outside or inside a subgraph. */
function graphChanged() {
    takeSeatsSoon()
    for (const { editor } of owners.values()) editor.render()
}

/**
 * Shows the people in the side panel, which draws widgets on a canvas of its own, and takes back
 * the width that it leaves on the widget: in the node the editor is as wide as the node.
 */
function drawInPanel(widget, session) {
    const { draw } = widget
    widget.draw = function (context, node, width, y, height, ...more) {
        this.width = undefined
        const { canvas, bgcanvas } = app.canvas
        if ([canvas, bgcanvas].includes(context.canvas))
            return draw?.call(this, context, node, width, y, height, ...more)
        sketch(context, session.shown, [width, height])
        node.setDirtyCanvas?.(true, true)
    }
}

function makeWidget(node, name, [, { default: untouched } = {}] = []) {
    const widgetOf = (name) => node.widgets.find((one) => one.name === name)
    const sides = ["canvas_width", "canvas_height"].map(widgetOf)
    const command = (id) => () => app.extensionManager.command.execute(id)
    let ran = [] // width and height of the last run
    const editor = new PoseEditor({
        size: () => sides.map((side, i) => {
            const length = (isConnected(node, side?.name) && ran[i]) || side?.value
            return Math.max(16, Math.round(Number(length) || 512))
        }),
        isLocked: () => isConnected(node, name) && !isLent(node, editor.element),
        onEdit: (goesOn) => {
            widget.callback?.(session.value)
            node.graph?.setDirtyCanvas?.(true, true)
            step(goesOn)
        },
        undo: command("Comfy.Undo"),
        redo: command("Comfy.Redo"),
        resources: load(),
        outside: {
            files: api,
            readPose,
            putPhoto: async (file) => {
                putBehind(node, await upload(file), window.LiteGraph)
                step()
            },
        },
    })
    editor.element.prepend(looks())
    const step = stepsOf(editor.element)
    const { session } = editor
    session.value = untouched
    const widget = node.addDOMWidget(name, WIDGET, editor.element, {
        getValue: () => session.value,
        setValue: (value) => (session.value = value),
        getMinHeight: () => LEAST_HEIGHT,
        hideOnZoom: false,
    })
    drawInPanel(widget, session)
    // as the older renderer does it: Ctrl+C copies the node in which somebody works
    const select = () => node.selected || app.canvas.selectNode(node)
    editor.element.addEventListener("pointerdown", select)
    owners.set(editor.element, { node, editor })
    for (const side of sides) if (side) after(side, "callback", () => editor.render())
    after(node, "onConnectionsChange", () => showConnectedPhoto(node, editor))
    after(node, "onExecuted", (output) => {
        ran = output?.vitruvian_canvas ?? []
        arrived(node, editor, output)
    })
    after(node, "onConnectionsChange", () => editor.render())
    let place = null // known before the node is removed: a graph that is cleared has no id
    after(node, "onAdded", () => {
        place = placeOf(node)
        takeSeatsSoon()
    })
    after(node, "onConfigure", () => node.graph && recall(placeOf(node), editor))
    after(node, "onRemoved", () => {
        if (place) remember(place, editor)
        editor.canvas.dispose()
        setTimeout(() => editor.element.isConnected || owners.delete(editor.element), 1000)
    })
    return { widget, minWidth: NODE_WIDTH, minHeight: NODE_HEIGHT }
}

/** The answer of a request as JSON; an Error with the server's words if it went wrong. */
async function answered(request) {
    const answer = await request
    const content = await answer.json().catch(() => null)
    if (answer.ok && content) return content
    const said = `${answer.status} ${answer.statusText}`.trim()
    throw new Error(content?.error ?? say("the server says <answer>", { answer: said }))
}

/** The OpenPose frames in any form of pose that the pack reads. */
async function readPose(content) {
    const body = JSON.stringify(content)
    return (await answered(api.fetchApi("/vitruvian/read_pose", { method: "POST", body }))).frames
}

/** Puts a file into the server's input folder; its name there. */
async function upload(file) {
    const body = new FormData()
    body.append("image", file)
    const sent = api.fetchApi("/upload/image", { method: "POST", body })
    const { name, subfolder } = await answered(sent)
    return subfolder ? `${subfolder}/${name}` : name
}

/** Shows the file of a connected Load Image behind the canvas, before any run. */
function showConnectedPhoto(node, editor) {
    const file = node.graph && connectedFile(node)
    const name = file ? JSON.stringify(file) : null
    if (name === editor.canvas.photoFile) return
    editor.canvas.photoFile = name
    if (file) showPhoto(file, editor)
    else editor.arrivedPhoto(null)
}

function showPhoto(file, editor) {
    const photo = new Image()
    photo.onload = () => editor.arrivedPhoto(photo)
    photo.src = api.apiURL(`/view?${new URLSearchParams(file)}`)
}

/** Whether something is connected to the input of this name. */
const isConnected = (node, name) =>
    node.inputs?.find((input) => input.name === name)?.link != null

/** Whether a subgraph's node shows this editor as its own, as older front ends have it. */
const isLent = (node, element) =>
    app.canvas.graph?.nodes.some((other) =>
        other !== node && other.widgets?.some((widget) => widget.element === element))

/**
 * The connected pose and photograph, as the node sends them with a run. ComfyUI gives a run's
 * results to the node with the same number, also if that is in another tab by now: so only what
 * is connected here can arrive.
 */
function arrived(node, editor, output) {
    const [frame] = (isConnected(node, "pose") && output?.vitruvian_pose) || []
    const [file] = (isConnected(node, "background_image") && output?.vitruvian_background) || []
    if (frame) editor.session.arrivedPose(frame)
    if (connectedFile(node)) return // it is shown already
    if (file) showPhoto(file, editor)
    else editor.arrivedPhoto(null)
}

/** Takes over the words of the artist's language, as the host serves them from locales/. */
async function learnWords() {
    const language = app.extensionManager.setting.get("Comfy.Locale")
    if (!language || language === "en") return
    const all = await answered(api.fetchApi("/i18n")).catch(() => null)
    speak(all?.[language]?.poseEditor)
}

app.registerExtension({
    name: "Vitruvian.PoseEditor",
    init: learnWords,
    getCustomWidgets: () => ({ [WIDGET]: makeWidget }),
    setup() {
        app.canvas.canvas.addEventListener("litegraph:set-graph", graphChanged)
        api.addEventListener("graphChanged", () => {
            for (const { node, editor } of owners.values()) showConnectedPhoto(node, editor)
        })
    },
})
