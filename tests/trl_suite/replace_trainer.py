"""pytest plugin: TRL's tests get `WorkflowGRPOTrainer` where they ask for `GRPOTrainer`; configurations stay TRL's."""

import trl
import trl.trainer
import trl.trainer.grpo_trainer

from aflow_trl import WorkflowGRPOTrainer

for module in (trl, trl.trainer, trl.trainer.grpo_trainer):
    module.GRPOTrainer = WorkflowGRPOTrainer
