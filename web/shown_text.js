// Shows what a node of Vitruvian says in words when it has run. Newer front ends show such texts on
// a few nodes of their own only.

import { app } from "../../scripts/app.js"
import { ComfyWidgets } from "../../scripts/widgets.js"

const NAME = "shown text"

/** The widget for the text, made when there is something to show. It is never saved nor sent. */
function widgetOf(node) {
    const known = node.widgets?.find((widget) => widget.name === NAME)
    if (known) return known
    const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app)
    widget.serialize = false
    widget.options.serialize = false
    widget.label = "said"
    const area = widget.element ?? widget.inputEl
    area.readOnly = true
    area.style.opacity = 0.75
    return widget
}

function show(node, text) {
    const [width, height] = node.size
    widgetOf(node).value = text
    const [, least] = node.computeSize()
    node.setSize([width, Math.max(height, least)])
    node.graph?.setDirtyCanvas?.(true, true)
}

app.registerExtension({
    name: "Vitruvian.ShownText",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("Vitruvian")) return
        const before = node.onExecuted
        node.onExecuted = function (output) {
            before?.apply(this, arguments)
            if (output?.text) show(this, [output.text].flat().join("\n"))
        }
    },
})
