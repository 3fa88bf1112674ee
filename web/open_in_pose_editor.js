// "Open in Pose Editor" in the menu of every node that has a pose or an image: a new Pose Editor
// beside it, with both connected.

import { app } from "../../scripts/app.js"
import { say } from "./editor/words.js"

const EDITOR = "VitruvianPoseEditor"
const INPUTS = { POSE_KEYPOINT: "pose", IMAGE: "background_image" } // the editor's, by type
const GAP = 60

/** The node and the number of the output that a node's input of this type is connected to. */
function behind(node, type) {
    const input = node.inputs?.find((one) => one.type === type && one.link != null)
    const link = input && node.graph?.getLink(input.link)
    const source = link && node.graph.getNodeById(link.origin_id)
    return source ? { node: source, slot: link.origin_slot } : null
}

/** The node's own output of this type. */
function ahead(node, type) {
    const slot = node.outputs?.findIndex((output) => output.type === type) ?? -1
    return slot < 0 ? null : { node, slot }
}

/**
 * Where a pose and an image of this node come from, by type: its outputs, or what it shows or saves
 * if it has none, and to one of them the other from its inputs. Empty without either.
 */
function sourcesOf(node) {
    if (node.comfyClass === EDITOR) return {}
    const types = Object.keys(INPUTS)
    const offers = (type) => ahead(node, type) ?? (node.outputs?.length ? null : behind(node, type))
    if (!types.some(offers)) return {}
    const sources = types.map((type) => [type, offers(type) ?? behind(node, type)])
    return Object.fromEntries(sources.filter(([, source]) => source))
}

/** Moves a new node down until it covers no other. */
function makeRoom(node) {
    const under = (other) => {
        const [x, y] = other.pos
        const [width, height] = other.flags?.collapsed ? [0, 0] : other.size
        return other !== node && x < node.pos[0] + node.size[0] && node.pos[0] < x + width
            && y < node.pos[1] + node.size[1] && node.pos[1] < y + height
    }
    for (let other; (other = node.graph._nodes.find(under)); ) {
        node.pos = [node.pos[0], other.pos[1] + other.size[1] + GAP]
    }
}

/** Gives the editor's canvas the size of the image that a node shows. */
function takeSize(editor, node) {
    const image = node?.imgs?.[0]
    if (!image?.naturalWidth) return
    const sides = { canvas_width: image.naturalWidth, canvas_height: image.naturalHeight }
    for (const [name, length] of Object.entries(sides)) {
        const widget = editor.widgets.find((one) => one.name === name)
        widget.value = length
        widget.callback?.(length)
    }
}

/** Makes the editor, as one step of undo. */
function open(node, sources) {
    app.canvas.emitBeforeChange()
    const editor = window.LiteGraph.createNode(EDITOR)
    editor.pos = [node.pos[0] + node.size[0] + GAP, node.pos[1]]
    node.graph.add(editor)
    makeRoom(editor)
    for (const [type, source] of Object.entries(sources)) {
        const input = editor.inputs.findIndex((one) => one.name === INPUTS[type])
        source.node.connect(source.slot, editor, input)
    }
    takeSize(editor, sources.IMAGE?.node)
    app.canvas.selectNode(editor)
    app.canvas.emitAfterChange()
    node.graph.setDirtyCanvas?.(true, true)
}

function entriesOf(node) {
    const sources = sourcesOf(node)
    if (!Object.keys(sources).length) return []
    return [{ content: say("Open in Pose Editor"), callback: () => open(node, sources) }]
}

/** Offers the entries on front ends that do not ask extensions for them. */
function offerByNode(node) {
    if (app.collectNodeMenuItems) return
    const before = node.getExtraMenuOptions
    node.getExtraMenuOptions = function (canvas, options) {
        options.push(...entriesOf(this))
        return before?.apply(this, arguments)
    }
}

app.registerExtension({
    name: "Vitruvian.OpenInPoseEditor",
    getNodeMenuItems: entriesOf,
    nodeCreated: offerByNode,
})
