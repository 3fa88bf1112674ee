"""The types of the wires between nodes that the host has no class for."""

from comfy_api.latest import io

PoseKeypoint = io.Custom("POSE_KEYPOINT")
BoundingBox = io.Custom("BOUNDING_BOX")  # newer hosts have a class for it
AnyBoundingBox = io.Custom("BOUNDING_BOX,BOUNDING_BOXES")  # one box, or several with metadata
ModelPatch = io.Custom("MODEL_PATCH")  # hosts have a class for it, under different names
Instances = io.Custom("VITRUVIAN_INSTANCES")
PersonLoras = io.Custom("VITRUVIAN_PERSON_LORA")  # several, chained
HandGenerator = io.Custom("VITRUVIAN_HAND_GENERATOR")
HumanPrior = io.Custom("VITRUVIAN_HUMAN_PRIOR")
SemanticMap = io.Custom("VITRUVIAN_SEMANTIC_MAP")
Memory = io.Custom("VITRUVIAN_MEMORY")
Parts = io.Custom("VITRUVIAN_PARTS")
Appearance = io.Custom("VITRUVIAN_APPEARANCE")
