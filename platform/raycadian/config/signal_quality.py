"""What a stretch of a waveform has to be: a section of a card, and what physiology/waveforms/quality.py judges by."""

from raycadian.config.schema import Count, Fraction, NotNegative, Positive, Schema


class SignalQuality(Schema):
    """What a stretch of a signal must be to count as good (physiology/waveforms/quality.py defines the indices)."""

    window_s: Positive = 10.0
    """Seconds that quality is judged on."""
    hop_s: Positive = 10.0
    """Seconds from one judged stretch to the next: windows begin on this grid."""
    masked_share: Fraction = 0.05
    """Samples neither measured nor repaired, at most."""
    beats: Count = 3
    """Cardiac cycles, at least."""
    pause_s: Positive = 3.0
    """Longest time without a beat."""
    rate_bpm: Positive = 200.0
    """Beats a minute, at most."""
    ecg_shape: Fraction = 0.9
    ecg_edges: Positive = 3.0  # times the steepest slope of the median QRS complex; ectopic beats reach 2.95
    ppg_shape: Fraction = 0.86  # Orphanidou et al. 2015
    ppg_edges: Positive = 3.0  # times the steepest slope of the median pulse
    ppg_skewness: Fraction = 0.8  # share of the pieces of 3 s that are skewed to the right
    abp_normal: Fraction = 0.8  # share of beats
    abp_pulse_mmhg: NotNegative = 10.0
    """Pulse pressure of a beat, at least. The published 20 rejects patients in shock, whose pulse is low, not wrong."""
    abp_mean_mmhg: NotNegative = 25.0
    """Mean pressure of a beat, at least; published 30."""
