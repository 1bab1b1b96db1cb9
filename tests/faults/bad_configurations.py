"""Command lines that cannot work: (command, overrides, words of the line that says so).

For `train` and `preview` the overrides are added to a small run that does work.
"""

TRAIN = {
    "an unknown key that is added": (["+data.batchsize=4"], ["data", "batchsize"]),
    "an unknown group": (["decoder=unet"], ["decoder"]),
    "an unknown sampler option": (["+data.sampler.rois=4"], ["data.sampler", "rois"]),
    "an unknown class": (["optimizer._target_=torch.optim.Adamm"], ["optimizer", "Adamm"]),
    "a policy in numbers": (["data.on_error=0"], ["data.on_error"]),
    "a category that does not exist": (["data.category_id=cow"], ["data.category_id", "no category 'cow'", "1 (person), 18 (dog)"]),
    "a category in fractions": (["data.category_id=1.5"], ["data.category_id", "1.5"]),
    "nobody large enough to paste": (["data/augment/paste=people", "data.augment.paste.min_size=5000"], ["data.augment.paste.min_size"]),
    "folds of a set with itself": (["data/folds=five"], ["image id", "share no image"]),
    "an unknown term": (["loss.terms.magic.weight=1"], ["loss.terms.magic"]),
    "class weights below 0": (["loss.class_weights=[1,-1,1]"], ["loss.class_weights"]),
    "class weights of nothing": (["loss.class_weights=[0,0,0]"], ["loss.class_weights"]),
    "class weights that are not numbers": (["loss.class_weights=[nan,1,1]"], ["loss.class_weights"]),
    "lr nan": (["optimizer.lr=nan"], ["optimizer", "nan"]),
    "weight_decay below 0": (["optimizer.weight_decay=-1"], ["optimizer", "weight_decay"]),
    "max_epochs below -1": (["trainer.max_epochs=-5"], ["trainer", "max_epochs"]),
    "an unknown accelerator": (["trainer.accelerator=abacus"], ["trainer", "abacus"]),
    "no devices": (["trainer.devices=0"], ["trainer"]),
    "devices in words": (["trainer.devices=all"], ["trainer", "devices"]),
    "less than a batch of this set": (["+trainer.limit_train_batches=0.01"], ["limit_train_batches"]),
    "validation after more batches than there are": (["+trainer.val_check_interval=10000"], ["val_check_interval"]),
    "an unknown strategy": (["+trainer.strategy=magic"], ["trainer", "magic"]),
    **{
        f"{group}=null": ([f"{group}=null"], [f"{group}=null"])
        for group in ("optimizer", "loss", "model", "data", "extractor", "trainer", "paths")
    },
    **{
        f"trainer.{key}={value}": ([f"+trainer.{key}={value}"], ["trainer", word])
        for key, value, word in [
            ("strategy", "ddp_spawn", "trainer=ddp"), ("strategy", "ddp_notebook", "trainer=ddp"),
            ("enable_checkpointing", "false", "enable_checkpointing"), ("profiler", "garbage", "profiler"),
            ("logger", "false", "logger=null"), ("callbacks", "[]", "callbacks=null"), ("max_time", "soon", "duration"),
            ("barebones", "true", "barebones"),
        ]
    },
    "an unknown logger": (["logger=[paper]"], ["logger", "paper"]),
    "an output folder that TensorBoard cannot name": (["paths.output_dir=runs\udcff"], ["paths.output_dir", "UTF-8"]),
    **{
        f"{key}=5": ([f"++{key}=5"], [f"`{key}`", "5"])
        for key in ("data.reader", "data.sampler", "data.cache", "callbacks.overlays", "logger.csv")
    },
    "a number among callbacks": (["callbacks=[default,3]"], ["callbacks=3", "minimal"]),
    "a number for a group": (["optimizer=5"], ["optimizer=5", "adamw"]),
    "an output folder nobody may make": (["paths.output_dir=/proc/run"], ["/proc/run"]),
    "a checkpoint folder in a file": (["paths.checkpoint_dir=/dev/null/run"], ["/dev/null/run"]),
    "no annotations": (["data.train_annotations="], ["annotations"]),
    "an interpolation of nothing": (["data.train_images=${data.nothing}"], ["data.nothing"]),
}  # fmt: skip

OTHERS = {
    "preview as a text": ("preview", ["output=x.txt"], ["x.txt"]),
    "analyze without a file": ("analyze", ["annotations="], ["annotations"]),
    "analyze into nothing": ("analyze", ["output_dir="], ["output_dir"]),
    "analyze of rois too large": ("analyze", ["min_roi_size=9000"], ["min_roi_size"]),
    "analyze of nobody": ("analyze", ["category_id=77"], ["category_id 77"]),
    "analyze of a category in words": ("analyze", ["category_id=cow"], ["category_id", "cow", "18 (dog)"]),
    "analyze with an unknown key": ("analyze", ["grids=3"], ["grids", "grid"]),
    "export of nothing": ("export", [], ["ckpt"]),
    "analyze with a reader that is a number": ("analyze", ["annotations=x.json", "reader=5"], ["`reader`", "5"]),
    "app with limits that are a number": ("app", ["ckpt=x", "limits=5"], ["`limits`", "5"]),
    "prepare of one size twice": ("prepare", ["source=.", "sizes=[5,5]"], ["sizes"]),
    "prepare of a size in words": ("prepare", ["source=.", "sizes=[few]"], ["sizes", "few"]),
    "prepare with images otherwise": ("prepare", ["source=.", "images=move"], ["images", "'link', 'copy' or 'skip'"]),
    "prepare into nothing": ("prepare", ["source=.", "output_dir="], ["output_dir"]),
    "prepare from elsewhere": ("prepare", ["base_url=ftp://x"], ["base_url", "ftp://x"]),
    "prepare with a wrong checksum": ("prepare", ["md5.train2017=12"], ["md5", "12"]),
}  # fmt: skip

CONFIGURATIONS = {name: ("train", *case) for name, case in TRAIN.items()} | OTHERS
