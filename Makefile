# make run: the whole experiment on a fresh machine; make test: the whole suite;
# make test-lowest: the suite with the lowest versions that pyproject.toml admits.
# Python 3.11 or newer; another interpreter: make run PYTHON=python3.12
# Without a GPU: make run TORCH=cpu takes PyTorch's wheels for the CPU, which need 4.6 GB less.
PYTHON ?= python3
BIN := .venv/bin
INDEX := $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))

.PHONY: run why why-fashion recipe test test-lowest lint bench torture clean

TRAIN := $(BIN)/python train.py
TEN := 0,1,2,3,4,5,6,7,8,9

# The talk's student with and without its dropout, alone and taught, by ten seeds each.
run: .venv/installed
	$(TRAIN) stage=teacher
	$(TRAIN) -m stage=student,distill model.dropout=0,0.1 trainer.max_epochs=20 kd.T=1,2,4,10 kd.alpha=0,0.5 seed=$(TEN)
	$(TRAIN) stage=report
	@echo "Curves, and the table of all runs: $(BIN)/tensorboard --logdir outputs/main"

# The studies of docs/why.md, one after another; those that train teachers of their own come last.
WHY := factors dropout width rates time controls direction clip mse smoothing noise images labels teachers knows
why: .venv/installed
	$(TRAIN) stage=teacher study=why
	$(TRAIN) -m stage=teacher study=why trainer.max_epochs=1,3
	$(TRAIN) stage=teacher study=why optim.label_smoothing=0.1
	$(TRAIN) -m stage=teacher study=why seed=1,2,3,4
	$(TRAIN) stage=teacher study=why data.views=shift1 trainer.max_epochs=20
	for name in $(WHY); do \
	  $(TRAIN) -m +experiment=why/$$name && $(TRAIN) stage=report study=why_$$name || exit 1; \
	done
	for name in talk talk_official; do \
	  $(TRAIN) +experiment=why/$$name stage=teacher && \
	  $(TRAIN) +experiment=why/$$name stage=teacher optim=adam data.batch_size=128 trainer.max_epochs=10 && \
	  $(TRAIN) -m +experiment=why/$$name && $(TRAIN) stage=report study=why_$$name || exit 1; \
	done
	$(TRAIN) +experiment=why/hinton stage=teacher
	$(TRAIN) -m +experiment=why/hinton
	$(TRAIN) -m +experiment=why/hinton stage=student data.views=shift2 seed=$(TEN)
	$(TRAIN) -m +experiment=why/hinton study=why_hinton30 model.hidden=[30,30] kd.T=1,2.5,4,8,20 \
	  'teacher.checkpoint="outputs/why_hinton/teacher/seed=0,data.views=shift2"'
	$(TRAIN) -m +experiment=why/omit
	$(TRAIN) -m +experiment=why/omit study=why_omit32 model.hidden=32 model.lr=1e-2 kd.T=4 seed=$(TEN)

# Twelve of these studies on Fashion-MNIST.
FASHION := outputs/why_fashion/teacher/seed
why-fashion: .venv/installed
	$(TRAIN) -m stage=teacher study=why_fashion data=fashion_mnist seed=0,1,2,3,4
	$(TRAIN) -m stage=teacher study=why_fashion data=fashion_mnist trainer.max_epochs=1,3
	$(TRAIN) stage=teacher study=why_fashion data=fashion_mnist optim.label_smoothing=0.1
	for name in dropout width controls direction noise images labels rates clip time; do \
	  $(TRAIN) -m +experiment=why/$$name data=fashion_mnist study=why_fashion_$$name \
	    'teacher.checkpoint="$(FASHION)=0,data=fashion_mnist"' || exit 1; \
	done
	$(TRAIN) -m +experiment=why/teachers data=fashion_mnist study=why_fashion_teachers 'teacher.checkpoint="$(FASHION)=0,data=fashion_mnist","$(FASHION)=0,data=fashion_mnist,trainer.max_epochs=1","$(FASHION)=0,data=fashion_mnist,trainer.max_epochs=3","$(FASHION)=0,data=fashion_mnist,optim.label_smoothing=0.1"'
	$(TRAIN) -m +experiment=why/knows data=fashion_mnist study=why_fashion_knows 'teacher.checkpoint=["$(FASHION)=0,data=fashion_mnist","$(FASHION)=1,data=fashion_mnist","$(FASHION)=2,data=fashion_mnist","$(FASHION)=3,data=fashion_mnist","$(FASHION)=4,data=fashion_mnist"]'

recipe: .venv/installed
	$(TRAIN) +experiment=recipe stage=teacher
	$(TRAIN) -m +experiment=recipe stage=student,distill seed=$(TEN)
	$(TRAIN) stage=report study=recipe

test: .venv/dev
	$(BIN)/python -m pytest

test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest

# The promises of docs/trust.md under attack: make torture SECONDS=600 SEED=3
SECONDS ?= 600
SEED ?= 0
torture: .venv/dev
	$(BIN)/python -m tests.torture --seconds $(SECONDS) --seed $(SEED)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv/dev
	$(BIN)/python benchmarks/epoch.py -n 7

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable . $(INDEX)
	touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(INDEX)
	touch $@

# Of Python, too, the lowest: later ones have no wheels of the lowest versions. What kd does not name
# itself is the newest.
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make test-lowest PYTHON=python3.11")'
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --upgrade --resolution lowest-direct --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lowest
