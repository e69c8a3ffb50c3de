"""The exported scheduler inside diffusers, where it is installed: recorded runs, and aMUSEd's own pipeline."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from export_contents import RUNS, content, is_complete, load_module, replay, schedule_of
from reference import Recorded

from autonat.export.formats import export, read_schedule
from models.schedule import GenerationSchedule, maskgit_cosine

# Looked up, not imported: the import takes seconds, which a run of other tests should not pay.
INSTALLED = all(importlib.util.find_spec(name) for name in ("diffusers", "transformers"))
pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs diffusers and transformers")
SCHEDULE = GenerationSchedule((0.7, 0.3), (1.0, 0.8, 0.5), (3.0, 1.0), (0.0, 1.5, 2.5), rule="enat")


def scheduler_of(schedule, folder, codebook_size):
    export(content(schedule, codebook_size=codebook_size), "diffusers", folder)
    module = load_module(folder / "scheduling_autonat.py", "scheduling_autonat")
    return module, module.AutoNATScheduler.from_pretrained(folder)


@pytest.mark.reference
@pytest.mark.parametrize("run", [run for run in RUNS if is_complete(*run)], ids="-".join)
def test_recorded_runs_follow_from_the_scheduler(tmp_path, monkeypatch, run):
    schedule, recorded = schedule_of(*run), Recorded(*run)
    codes = int(recorded["ids_in"].max())  # the first canvas is [MASK] throughout
    module, scheduler = scheduler_of(schedule, tmp_path, codes)
    scheduler.set_timesteps(schedule.num_steps)
    noise = []
    monkeypatch.setattr(module, "gumbel", lambda shape, like, generator=None: noise.pop(0))

    def step_of(step, tokens, masked, logits, draw, choice):
        noise[:] = [torch.zeros_like(logits) if draw is None else draw, choice]
        out = scheduler.step(logits, scheduler.timesteps[step], tokens.masked_fill(masked, codes))
        return out.pred_original_sample, out.prev_sample == codes

    replay(*run, step_of)


@pytest.mark.parametrize("rule", ["enat", "autonat", "muse"])
def test_grids_and_sequences_are_one(tmp_path, rule):
    _, scheduler = scheduler_of(replace(SCHEDULE, rule=rule), tmp_path, 7)
    logits = torch.randn(2, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    outcomes = []
    for flat in (False, True):
        scheduler.set_timesteps(3)
        tokens = torch.full((2, 16) if flat else (2, 4, 4), 7)
        generator = torch.Generator().manual_seed(1)
        for timestep in scheduler.timesteps:
            output = logits.flatten(2).transpose(1, 2) if flat else logits
            tokens = scheduler.step(output, timestep, tokens, generator=generator, return_dict=False)[0]
        outcomes.append(tokens.reshape(2, 16))
    assert torch.equal(*outcomes)
    assert int(outcomes[0].max()) < 7


def test_an_image_with_fewer_masked_tokens_than_the_first_keeps_its_visible_ones(tmp_path):
    """As from image to image: each image is masked at random."""
    _, scheduler = scheduler_of(SCHEDULE, tmp_path, 7)
    scheduler.set_timesteps(3)
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    tokens[0, :12] = tokens[1, :3] = 7
    logits = torch.randn(2, 16, 7, generator=torch.Generator().manual_seed(0))
    after = scheduler.step(logits, scheduler.timesteps[0], tokens, generator=torch.Generator().manual_seed(1))
    assert (after.prev_sample == 7).sum(1).tolist() == [11, 3]  # floor(16 r)
    assert (after.prev_sample[1, 3:] == 0).all()


def test_gumbel_noise_is_standard(tmp_path):
    from scipy import stats

    module, _ = scheduler_of(SCHEDULE, tmp_path, 7)
    noise = module.gumbel((20_000,), torch.zeros(1), torch.Generator().manual_seed(0))
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


@pytest.fixture(scope="module")
def pipeline_parts():
    """aMUSEd's own transformer and tokenizer of images, tiny and random, as its own tests have them."""
    from diffusers import UVit2DModel, VQModel

    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=8,
        use_bias=False,
        hidden_dropout=0.0,
        cond_embed_dim=8,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=8,
        vocab_size=32,
        codebook_size=16,
        in_channels=8,
        block_out_channels=8,
        num_res_blocks=1,
        downsample=False,
        upsample=False,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        attention_dropout=0.0,
        intermediate_size=8,
        layer_norm_eps=1e-06,
        ln_elementwise_affine=True,
    )
    vqvae = VQModel(
        act_fn="silu",
        block_out_channels=[8],
        down_block_types=["DownEncoderBlock2D"],
        in_channels=3,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        num_vq_embeddings=32,
        out_channels=3,
        sample_size=8,
        up_block_types=["UpDecoderBlock2D"],
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    return transformer.eval(), vqvae.eval()


def prompt():
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(2, 2, 5, 8, generator=generator)
    return {
        "prompt_embeds": torch.randn(2, 8, generator=generator),
        "negative_prompt_embeds": torch.randn(2, 8, generator=generator),
        "encoder_hidden_states": states[0],
        "negative_encoder_hidden_states": states[1],
        "height": 6,
        "width": 6,
    }


def test_amused_pipeline_runs_it_with_guidance_by_steps(tmp_path, pipeline_parts):
    """From the pipeline's own loop: every step mixes with its own guidance, and counts fall as ours."""
    from diffusers import AmusedPipeline

    transformer, vqvae = pipeline_parts
    _, scheduler = scheduler_of(SCHEDULE, tmp_path, 31)
    pipe = AmusedPipeline(vqvae, None, None, transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    inputs, mixed, counts = [], [], []
    step, forward = scheduler.step, transformer.forward

    def spy_forward(*arguments, **keywords):
        inputs.append(forward(*arguments, **keywords))
        return inputs[-1]

    def spy_step(model_output, **keywords):
        mixed.append(model_output)
        out = step(model_output=model_output, **keywords)
        counts.append((out.prev_sample == 31).flatten(1).sum(1).tolist())
        return out

    scheduler.step, transformer.forward = spy_step, spy_forward
    try:
        images = pipe(
            **prompt(),
            num_inference_steps=scheduler.num_steps,
            guidance_scale=scheduler.guidance_by_steps(),
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
    finally:
        del scheduler.step, transformer.forward
    assert images.shape == (2, 6, 6, 3)
    assert counts == [[25, 25], [10, 10], [0, 0]]  # floor(36 r)
    for w, both, guided in zip(SCHEDULE.guidance_scales, inputs, mixed, strict=True):
        uncond, cond = both.chunk(2)
        assert not torch.allclose(cond, uncond)
        torch.testing.assert_close(guided, cond + w * (cond - uncond))


def test_another_number_of_steps_is_refused(tmp_path, pipeline_parts):
    from diffusers import AmusedPipeline

    _, scheduler = scheduler_of(SCHEDULE, tmp_path, 31)
    pipe = AmusedPipeline(pipeline_parts[1], None, None, pipeline_parts[0], scheduler)
    with pytest.raises(ValueError, match="num_inference_steps=3, not 12"):
        pipe(**prompt(), guidance_scale=scheduler.guidance_by_steps())
    module = load_module(tmp_path / "scheduling_autonat.py", "scheduling_autonat")
    families = {"mask_token_id": 3, "mask_ratios": [0.5], "choice_temperatures": [1.0], "guidance_scales": [0.0, 0.0]}
    with pytest.raises(ValueError, match="do not fit together"):
        module.AutoNATScheduler(**families, sampling_temperatures=[1.0])
    with pytest.raises(ValueError, match="unknown decoding rule"):
        module.AutoNATScheduler(**families, sampling_temperatures=[1.0, 1.0], rule="mine")


def test_it_is_saved_and_loaded_with_a_pipeline(tmp_path, pipeline_parts):
    from diffusers import AmusedPipeline, AmusedScheduler

    module, scheduler = scheduler_of(SCHEDULE, tmp_path, 31)
    pipe = AmusedPipeline(pipeline_parts[1], None, None, pipeline_parts[0], AmusedScheduler(31))
    pipe.save_pretrained(tmp_path / "amused")
    loaded = AmusedPipeline.from_pretrained(tmp_path / "amused", scheduler=scheduler, tokenizer=None, text_encoder=None)
    assert isinstance(loaded.scheduler, module.AutoNATScheduler)
    scheduler.save_pretrained(tmp_path / "again")
    assert module.AutoNATScheduler.from_pretrained(tmp_path / "again").config.mask_ratios == [0.7, 0.3]
    assert read_schedule(tmp_path / "again" / "scheduler_config.json")[1].schedule == SCHEDULE
    data = json.loads((tmp_path / "again" / "scheduler_config.json").read_text())
    assert data["provenance"]["study"] == "study"


def test_noise_for_image_to_image(tmp_path):
    _, scheduler = scheduler_of(maskgit_cosine(3), tmp_path, 31)
    scheduler.set_timesteps(3)
    tokens = torch.zeros(4, 50, 50, dtype=torch.int64)
    shares = [
        float((scheduler.add_noise(tokens, timestep, torch.Generator().manual_seed(0)) == 31).float().mean())
        for timestep in scheduler.timesteps
    ]
    assert shares == pytest.approx([0.866, 0.5, 0.0], abs=0.02)
