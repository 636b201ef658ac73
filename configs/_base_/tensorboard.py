# Scalars and pictures for TensorBoard as well; laid over any config: --base tensorboard
visualizer = dict(
    type="SegLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
    name="visualizer",
)
