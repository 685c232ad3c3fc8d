__all__ = ['ttypes', 'constants', 'Prana']
