--[[
 AOFlagger strategy for one DSA-110 tile: 24 integrations of 12.9 s, up to 768 channels of 244 kHz.

 What differs from a general strategy, and why:
 * A tile is short. The smooth background keeps its full time resolution, so that the drift of
   sources through the beam (smooth over minutes) is not taken for interference.
 * Samples that are already flagged (absent subbands, zeros, dead antennas) are left out of every
   statistic, and stay flagged.
 * The edges of the subbands fall by a third, on a strong source by many times the noise. The shape
   that all subbands share, which interference cannot imitate, is divided out first: the variable
   passband_file names it (see the -preamble option). AOFlagger's own normalize_subbands is of no use
   here: it follows the data of one baseline, interference included.
 * Interference reaches both polarizations, and flags of one are extended to the other in the end: the
   sum of their amplitudes is searched once, instead of each by itself. That takes a third less time;
   what is in one polarization alone must be a third stronger to be found.
 * Groups with few channels or integrations (tests, quick looks) shrink the smoothing windows.
]]--

aoflagger.require_min_version("3.0")

-- Largest odd window that is no wider than the axis.
local function window(wanted, available)
  local size = math.min(wanted, available)
  if size % 2 == 0 then size = size - 1 end
  return math.max(size, 1)
end

function execute(input)
  local base_threshold = 1.1            -- sensitivity of the last iteration
  local iteration_count = 3             -- each iteration is more sensitive than the one before ...
  local threshold_factor_step = 2.0     -- ... by this factor
  local transient_threshold_factor = 0.8 -- broad-band bursts: more sensitive in frequency direction
  local time_window = window(11, #input:get_times())
  local channel_window = window(21, #input:get_frequencies())

  if passband_file ~= nil then
    aoflagger.apply_bandpass(input, passband_file)
  end
  local data = nil -- the sum of the amplitudes of all polarizations
  for _, polarization in ipairs(input:get_polarizations()) do
    local amplitude = input:convert_to_polarization(polarization):convert_to_complex("amplitude")
    if data == nil then
      data = amplitude
    else
      local mask = amplitude:copy()
      mask:join_mask(data)
      data = data - ((data - data) - amplitude) -- there is no addition
      data:set_mask(mask)
    end
  end
  local original_data = data:copy()

  for i = 1, iteration_count - 1 do
    local factor = threshold_factor_step ^ (iteration_count - i)
    local level = factor * base_threshold
    aoflagger.sumthreshold_masked(
      data, original_data, level, level * transient_threshold_factor, true, true)

    -- Whole integrations and whole channels that are too noisy.
    local channels = data:copy()
    aoflagger.threshold_timestep_rms(data, 3.5)
    aoflagger.threshold_channel_rms(channels, 3.0 * factor, true)
    data:join_mask(channels)

    -- Subtract the smooth background of what is left.
    data:set_visibilities(original_data)
    data:join_mask(original_data)
    local background = data:copy()
    aoflagger.low_pass_filter(background, time_window, channel_window, 2.5, 5.0)
    local residual = original_data - background
    residual:set_mask(data)
    data = residual
  end

  aoflagger.sumthreshold_masked(
    data, original_data, base_threshold, base_threshold * transient_threshold_factor, true, true)
  aoflagger.scale_invariant_rank_operator_masked(data, original_data, 0.2, 0.2)
  aoflagger.threshold_timestep_rms(data, 4.0)
  data:join_mask(original_data) -- the masked operators do not keep flags that were there before
  input:join_mask(data)
  input:flag_nans()
end
